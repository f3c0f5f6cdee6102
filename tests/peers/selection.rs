use super::story::Story;
use crate::evidence::assert_no_changes;

/// Two certificates of two teams.
const TWO: &str = "certificates:\n  shop:\n    names: [shop.example.org]\n    labels: { team: checkout }\n    deploy: [{ target: web }]\n  \
                   blog:\n    names: [blog.example.org]\n    labels: { team: content }\n    deploy: [{ target: web }]\n";

#[test]
fn only_what_is_selected_is_applied() {
    for (flags, expected) in [
        (vec!["--address", "certificate/shop"], [true, false]),
        (vec!["--exclude", "*/shop*"], [false, true]),
        (vec!["-l", "team=checkout"], [true, false]),
        (vec!["--address", "certificate/*"], [true, true]),
    ] {
        let Some(story) = Story::new() else { return };
        story.configure(TWO);
        let run =
            story.project.certplan(&[&["apply", "--auto-approve"], flags.as_slice()].concat()).expect(0);
        let deployed = ["shop", "blog"].map(|name| story.deployed(name).is_some());
        assert_eq!(deployed, expected, "{flags:?}: {run}");
        story.project.certplan(&["apply", "--auto-approve"]).expect(0);
        assert_no_changes(&story.project);
    }
}

#[test]
fn a_selection_that_matches_nothing_is_an_error() {
    let Some(story) = Story::new() else { return };
    story.configure(TWO);
    for flags in [["--address", "certificate/nope"], ["-l", "team=nobody"]] {
        let run = story.project.certplan(&[&["plan"], flags.as_slice()].concat()).expect(1);
        assert!(run.to_string().contains("match"), "{run}");
    }
    let run = story.project.certplan(&["plan", "--only", "renewals", "--detailed-exitcode"]).expect(0);
    assert!(run.stdout.contains("config"), "what was left out is counted: {run}");
}

#[test]
fn a_saved_plan_does_what_was_reviewed_or_refuses() {
    let Some(story) = Story::new() else { return };
    let project = &story.project;
    story.configure(TWO);
    project.certplan(&["plan", "--out", "reviewed.plan"]).expect(0);
    project.certplan(&["apply", "reviewed.plan"]).expect(0);
    assert!(story.deployed("shop").is_some() && story.deployed("blog").is_some());
    assert_no_changes(project);
    let (shop, blog) = (story.deployed("shop").unwrap(), story.deployed("blog").unwrap());

    // Both are to change; then one changes again behind the reviewed plan.
    let changed = TWO
        .replace("[shop.example.org]", "[shop.example.org, www.shop.example.org]")
        .replace("[blog.example.org]", "[blog.example.org, www.blog.example.org]");
    story.configure(&changed);
    project.certplan(&["plan", "--out", "reviewed.plan"]).expect(0);
    story.configure(&changed.replace("www.blog", "news.blog"));
    let stale = project.certplan(&["apply", "reviewed.plan"]).expect(4);
    assert!(stale.stderr.contains("certificate/blog"), "{stale}");
    assert_eq!(story.deployed("shop").unwrap().fingerprint, shop.fingerprint, "nothing was applied");
    let partly = project.certplan(&["apply", "reviewed.plan", "--continue"]).expect(4);
    assert_ne!(
        story.deployed("shop").unwrap().fingerprint,
        shop.fingerprint,
        "what is not stale was applied: {partly}"
    );
    assert_eq!(story.deployed("blog").unwrap().fingerprint, blog.fingerprint, "what is stale was not");

    // State that moved on makes it stale as well.
    project.certplan(&["plan", "--out", "reviewed.plan"]).expect(0);
    project.certplan(&["apply", "--auto-approve"]).expect(0);
    project.certplan(&["apply", "reviewed.plan"]).expect(4);
    project.certplan(&["apply", "nothing.plan"]).expect(1);
}
