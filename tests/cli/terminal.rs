//! What somebody sees and presses who sits before it.

use std::time::Duration;

use crate::project::terminal::Terminal;
use crate::world::World;

const QUESTION: &str = "Only \"yes\" is accepted: ";

fn with_one() -> World {
    let world = World::new();
    world.configure(&[("shop", "names: [shop.example.test]")]);
    world
}

#[test]
fn only_yes_is_yes() {
    let world = with_one();
    for (keys, told) in [
        ("no\n", "not approved; nothing was applied"),
        ("y\n", "not approved; nothing was applied"),
        ("YES\n", "not approved; nothing was applied"),
        ("\n", "not approved; nothing was applied"),
        // Ctrl-D: the end of the input.
        ("\u{4}", "not approved; nothing was applied"),
    ] {
        let mut terminal = Terminal::start(&world.project, &["apply"]);
        terminal.wait_for(QUESTION);
        terminal.press(keys);
        let (code, screen) = terminal.end();
        assert_eq!(code, Some(1), "{keys:?}: {screen}");
        assert!(screen.contains(told), "{keys:?}: {screen}");
    }
    let mut terminal = Terminal::start(&world.project, &["apply"]);
    terminal.wait_for(QUESTION);
    terminal.press("\u{3}");
    let (code, screen) = terminal.end();
    assert_ne!(code, Some(0), "Ctrl-C at the question: {screen}");
    assert_eq!(world.effects(), [0, 0, 0]);
    assert!(!world.state_folder().exists());
}

#[test]
fn after_yes_each_step_is_shown_in_colour() {
    let world = with_one();
    world.faults(|faults| faults.validation_delay = Duration::from_millis(500));
    let mut terminal = Terminal::start(&world.project, &["apply"]);
    terminal.wait_for(QUESTION);
    assert!(terminal.screen().contains("\u{1b}["), "the plan has colours: {}", terminal.screen());
    terminal.press("yes\n");
    terminal.wait_for("certificate/shop: names");
    let (code, screen) = terminal.end();
    assert_eq!((code, world.issued()), (Some(0), 1), "{screen}");
    assert!(screen.contains("certificate/shop: done, valid until"), "{screen}");
    assert!(screen.contains("Apply complete: 1 certificate is as it should be."), "{screen}");

    // `NO_COLOR` and `--color never` are heeded on a terminal as well.
    let (code, screen) = Terminal::start(&world.project, &["plan", "--color", "never"]).end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
}

#[test]
fn of_many_certificates_the_number_that_is_done_is_shown() {
    let world = World::new();
    let names: Vec<(String, String)> =
        (0..25).map(|number| (format!("s{number}"), format!("names: [s{number}.example.test]"))).collect();
    let certificates: Vec<(&str, &str)> =
        names.iter().map(|(name, names)| (name.as_str(), names.as_str())).collect();
    world.configure(&certificates);
    let (code, screen) = Terminal::start(&world.project, &["apply", "--auto-approve"]).end();
    assert_eq!((code, world.issued()), (Some(0), 25), "{screen}");
    assert!(screen.contains("0/25 certificates"), "{screen}");
    for number in 0..25 {
        let line = format!("certificate/s{number}: done, valid until");
        assert_eq!(screen.matches(&line).count(), 1, "{line}: {screen}");
    }
    assert!(screen.contains("Apply complete: 25 certificates are as they should be."), "{screen}");
}

#[test]
fn ctrl_c_lets_what_is_in_flight_finish() {
    let world = with_one();
    world.faults(|faults| faults.validation_delay = Duration::from_secs(600));
    let mut terminal = Terminal::start(&world.project, &["apply", "--auto-approve"]);
    terminal.wait_for("certificate/shop: TXT");
    terminal.press("\u{3}");
    terminal.wait_for("interrupted: finishing what is in flight; once more ends at once");
    let (code, screen) = terminal.end();
    assert_eq!((code, world.issued()), (Some(130), 0), "{screen}");
    // What was begun is in state, for the next run to finish.
    let state = std::fs::read_to_string(world.object("shop")).expect("its object");
    assert!(state.contains("\"order_url\""), "{state}");
    assert_eq!(world.orders(), 1);
}
