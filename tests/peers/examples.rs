//! The examples, with the servers that they are for.

use std::path::Path;

use certplan_test_support::Apache;
use certplan_test_support::Haproxy;
use certplan_test_support::Nginx;
use certplan_test_support::WebServer;

use super::story::Story;
use crate::evidence::assert_no_changes;

#[test]
fn nginx_takes_its_example() {
    serve("nginx", "/etc/ssl/certplan", "listen 443", "listen 127.0.0.1:", Nginx::with);
}

#[test]
fn apache_takes_its_example() {
    serve("apache", "/etc/ssl/certplan", "*:443", "127.0.0.1:", Apache::with);
}

#[test]
fn haproxy_takes_its_example() {
    serve("haproxy", "/etc/haproxy/certs", "bind :443", "bind 127.0.0.1:", Haproxy::with);
}

/// An example as it is in the repository, for the zone of the stories.
struct Example {
    /// The server's block of its README.
    block: String,
    targets: String,
    certificates: String,
}

impl Example {
    fn read(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        let (readme, yaml) = (read("README.md"), read("certplan.yaml").replace("example.com", "example.org"));
        let (_, block) = readme.split_once(&format!("```{name}\n")).expect("the server's block");
        let (block, _) = block.split_once("```").unwrap();
        let (_, rest) = yaml.split_once("\ntargets:\n").expect("targets");
        let (targets, rest) = rest.split_once("\n\n").unwrap();
        let (_, certificates) = rest.split_once("\ncertificates:\n").expect("certificates");
        Self {
            block: block.replace("example.com", "example.org"),
            targets: targets.to_owned(),
            certificates: format!("certificates:\n{certificates}"),
        }
    }

    /// Targets and certificates, in another folder and with other values, by key; without a value the key is left out.
    fn configuration(&self, (own, folder): (&str, &Path), values: &[(&str, Option<String>)]) -> String {
        let mut lines = Vec::new();
        for line in self.targets.replace(own, &folder.display().to_string()).lines() {
            let key = line.trim_start().split(':').next().unwrap();
            match values.iter().find(|(name, _)| *name == key) {
                Some((_, None)) => {}
                Some((_, Some(value))) => lines.push(format!("      {key}: {value}")),
                None => lines.push(line.to_owned()),
            }
        }
        format!("targets:\n{}\n{}", lines.join("\n"), self.certificates)
    }
}

fn serve<S: WebServer>(
    name: &str,
    own: &str,
    listen: &str,
    instead: &str,
    start: impl FnOnce(Box<dyn FnOnce(u16) -> String>) -> Option<S>,
) {
    let Some(mut story) = Story::new() else { return };
    let example = Example::read(name);
    assert!(example.block.contains(own) && example.block.contains(listen), "{}", example.block);
    let live = story.path("live");
    // As the README says: the first time without the server. The group may not be there, or be somebody else's.
    let without = ["group", "test", "reload", "verify"].map(|key| (key, None));
    story.targets = String::new();
    story.configure(&example.configuration((own, &live), &without));
    story.project.certplan(&["apply", "--auto-approve"]).expect(0);

    let block = example.block.replace(own, &live.display().to_string());
    let (listen, instead) = (listen.to_owned(), instead.to_owned());
    let block = move |port: u16| block.replace(&listen, &format!("{instead}{port}"));
    let Some(mut server) = start(Box::new(block)) else { return };
    let yaml = |command: &[String]| Some(serde_json::to_string(command).unwrap());
    let configuration = example.configuration(
        (own, &live),
        &[
            ("group", None),
            ("test", yaml(&server.test_command())),
            ("reload", yaml(&server.reload_command())),
            ("verify", Some(format!("{{ tls: \"127.0.0.1:{}\" }}", server.port()))),
        ],
    );
    story.configure(&configuration);
    story.project.certplan(&["apply", "--auto-approve"]).expect(0);
    story.project.certplan(&["renew", "shop", "--auto-approve"]).expect(0);
    let current = story.record("shop")["current"]["facts"]["fingerprint"].as_str().unwrap().to_owned();
    server.wait_for(&current);
    assert_no_changes(&story.project);
}
