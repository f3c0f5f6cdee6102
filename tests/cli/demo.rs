//! The demo, and what the sandbox says.

use std::process::Command;

use super::first_steps::readme;
use super::first_steps::without_chance;
use crate::project::Project;
use crate::world::World;

#[test]
fn the_demo_prints_lines_in_the_order_in_which_they_happen() {
    let project = Project::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = project.command(&["demo", "--directory", "demo"]);
    let mut child = command
        .stdout(writer.try_clone().expect("a second end"))
        .stderr(writer)
        .spawn()
        .expect("certplan starts");
    drop(command);
    let text = std::io::read_to_string(reader).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{text}");
    let position = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no `{needle}` in:\n{text}"));
    let order = [
        "$ cat certplan.yaml",
        "$ certplan validate",
        "The configuration is valid",
        "$ certplan plan",
        "$ certplan apply --auto-approve",
        "certificate/shop: starting",
        "Apply complete",
        "$ certplan show certificate/shop",
        "That is the main job",
    ];
    assert!(order.map(position).is_sorted(), "{text}");
    // The plan is shown before it is carried out, as on a terminal.
    let apply = &text[position("$ certplan apply --auto-approve")..];
    assert!(apply.find("shop.example.test") < apply.find("certificate/shop: starting"), "{apply}");
    let (_, shown) = text.split_once("$ cat certplan.yaml\n").expect("it shows the file");
    let (shown, _) = shown.split_once("\n$ certplan validate").expect("it goes on");
    assert!(
        readme().contains(&without_chance(shown)),
        "the README shows another configuration than:\n{shown}"
    );
    let run = project.certplan(&["demo", "--directory", "demo"]).expect(1);
    assert!(run.stderr.contains("is not empty"), "{run}");

    // What it says at its end works as it is written.
    let folder = project.path().join("demo");
    let mut sandbox = project
        .command(&["sandbox", "--directory", "sandbox"])
        .current_dir(&folder)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("certplan starts");
    let mut first = String::new();
    let output = sandbox.stdout.take().expect("it is piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut first).expect("text");
    let go_on = |arguments: &str| {
        let script = format!(". ./environment && exec \"$CERTPLAN\" {arguments}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(&folder);
        shell.env("CERTPLAN", env!("CARGO_BIN_EXE_certplan")).output().expect("a shell")
    };
    let apply = go_on("renew shop --auto-approve");
    let plan = go_on("plan --detailed-exitcode");
    sandbox.kill().and_then(|()| sandbox.wait()).expect("it is ours");
    assert_eq!(apply.status.code(), Some(0), "{}", String::from_utf8_lossy(&apply.stderr));
    assert_eq!(plan.status.code(), Some(0), "{}", String::from_utf8_lossy(&plan.stdout));
}

#[test]
fn what_the_sandbox_says_to_write_is_valid_as_it_is() {
    let world = World::new();
    rehearse(&world);
    world.project.certplan(&["--config", "rehearsal.yaml", "validate"]).expect(0);
}

#[test]
fn the_binding_that_the_sandbox_prints_gets_an_account_where_one_is_required() {
    let mut world = World::with(|options| options.eab_required = true);
    let text = rehearse(&world);
    world.project.write("sandbox.pem", &world.sandbox.ca_bundle_pem());
    for line in text.lines().filter_map(|line| line.strip_prefix("    export ")) {
        let (variable, value) = line.split_once('=').expect("a variable and its value");
        world.project.set(variable, value.trim_matches('\''));
    }
    let run = world.project.certplan(&["--config", "rehearsal.yaml", "apply", "--auto-approve"]).expect(0);
    assert_eq!((world.accounts(), world.issued()), (1, 1), "{run}");
}

/// Writes `rehearsal.yaml` as the sandbox says, and returns all that it says.
fn rehearse(world: &World) -> String {
    let text = world.sandbox.describe();
    let (_, block) = text.split_once("In certplan.yaml:\n\n").expect("it says what to write");
    let block: String =
        block.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line))).collect();
    let recipient = world.project.recipient();
    world.project.write(
        "rehearsal.yaml",
        &format!(
            "version: 1\nencryption: {{ recipients: [{recipient}] }}\n{block}certificates:\n  shop: {{ names: [shop.example.test] }}\n"
        ),
    );
    text
}
