//! The rules of the house that no compiler checks: who may use whom, what may be linked, how long a file may be.

#![allow(clippy::disallowed_methods, reason = "the repository itself is what is read here")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Which modules of the root package may use which. Everybody may use `model`'s nouns but `registry` needs none.
const RULE: &[(&str, &[&str])] = &[
    ("acme", &["model"]),
    ("apply", &["acme", "dns01", "model", "plan", "probe", "state"]),
    // The edge wires everything together, so it may use everything; nobody may use it.
    (
        "cli",
        &[
            "acme", "apply", "config", "dns01", "model", "plan", "probe", "refresh", "registry", "sandbox",
            "state",
        ],
    ),
    ("config", &["model", "registry"]),
    ("dns01", &["model"]),
    ("model", &[]),
    ("plan", &["model"]),
    ("probe", &["model"]),
    ("refresh", &["acme", "dns01", "model", "probe", "state"]),
    ("registry", &[]),
    ("sandbox", &["model"]),
    ("state", &["model"]),
];

/// The longest file, tests excluded.
const LONGEST: usize = 600;

/// How many crates the product may be built from.
const CRATES: usize = 500;

#[test]
fn modules_use_only_what_they_may() {
    let mut broken = Vec::new();
    let rule: BTreeMap<&str, &[&str]> = RULE.iter().copied().collect();
    for file in sources(Path::new("src")) {
        let owner = owner(&file);
        if owner == "main" || owner == "lib" {
            continue;
        }
        let Some(allowed) = rule.get(owner.as_str()) else {
            broken.push(format!("{}: the module `{owner}` is in no rule", file.display()));
            continue;
        };
        for used in uses(&read(&file), "crate::") {
            if used != owner && rule.contains_key(used.as_str()) && !allowed.contains(&used.as_str()) {
                broken.push(format!("{}: `{owner}` may not use `{used}`", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "the dependency rule is broken (ARCHITECTURE.md):\n{}", broken.join("\n"));
}

#[test]
fn the_rule_sees_every_way_to_name_a_module() {
    let text = "use crate::state::Store;\npub(crate) use crate::plan;\nuse crate::{acme::A, model};\n\
                let x = crate::dns01::y();\n// crate::cli is only talked about\n/// as is [`crate::probe`]\n";
    let used: Vec<String> = uses(text, "crate::").into_iter().collect();
    assert_eq!(used, ["acme", "dns01", "model", "plan", "state"]);
    let rule: BTreeMap<&str, &[&str]> = RULE.iter().copied().collect();
    assert!(!rule["plan"].contains(&"state") && !rule["sandbox"].contains(&"acme"));
    assert!(rule.values().all(|allowed| !allowed.contains(&"cli")), "nobody uses the command line");
}

#[test]
fn every_module_of_the_root_has_a_rule() {
    let modules: BTreeSet<String> = read(&root().join("src/lib.rs"))
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect();
    let ruled: BTreeSet<String> = RULE.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(modules, ruled);
}

#[test]
fn crates_depend_only_on_what_they_may() {
    let metadata = metadata();
    let members = members(&metadata);
    for name in ["certplan", "certplan-provider", "certplan-http", "certplan-files"] {
        assert!(members.contains_key(name), "`{name}` is a member");
    }
    for (name, package) in &members {
        let ours: BTreeSet<&str> =
            dependencies(package).filter(|dependency| members.contains_key(*dependency)).collect();
        let allowed: &[&str] = match name.as_str() {
            "certplan" => continue,
            "certplan-provider" => &[],
            _ => &["certplan-provider", "certplan-http"],
        };
        for dependency in ours {
            assert!(allowed.contains(&dependency), "`{name}` may not depend on `{dependency}`");
        }
    }
}

#[test]
fn the_product_links_one_tls_stack() {
    let linked = linked();
    assert!(linked.contains("rustls") && linked.contains("aws-lc-rs"), "the tree is read");
    for banned in banned() {
        assert!(!linked.contains(&banned), "`{banned}` is in the build (deny.toml says why it is not to be)");
    }
    // In the lock for platforms and features that we do not build; never linked.
    assert!(!linked.contains("ring"), "a second cryptographic library is in the build");
}

#[test]
fn the_product_is_built_from_a_bounded_number_of_crates() {
    let linked = linked();
    assert!(linked.len() > 100, "the tree is read: {}", linked.len());
    assert!(linked.len() <= CRATES, "{} crates; the ceiling is {CRATES}", linked.len());
}

#[test]
fn every_licence_is_on_the_list() {
    let allowed = list(&read(&root().join("deny.toml")), "[licenses]", "allow");
    assert!(allowed.contains("MIT") && !allowed.contains("GPL-3.0-only"), "the list is read");
    let metadata = metadata();
    let mut refused = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or("none");
        if !is_allowed(licence, &allowed) {
            refused.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(refused.is_empty(), "licences that deny.toml does not allow:\n{}", refused.join("\n"));
}

#[test]
fn licence_expressions_are_understood() {
    let allowed: BTreeSet<String> =
        ["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"].map(ToOwned::to_owned).into();
    for good in [
        "MIT",
        "MIT OR GPL-3.0-only",
        "MIT/Apache-2.0",
        "ISC AND (Apache-2.0 OR ISC)",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "(MIT OR GPL-2.0) AND ISC",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in
        ["", "none", "GPL-3.0-only", "MIT AND GPL-3.0-only", "(MIT OR ISC) AND GPL-2.0", "MIT AND (", "OR"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    let mut long = Vec::new();
    for folder in ["src", "providers", "tests/support/src"] {
        for file in sources(Path::new(folder)) {
            let path = file.strip_prefix(root()).unwrap();
            let is_test = path.components().any(|part| {
                matches!(
                    part.as_os_str().to_str(),
                    Some("tests" | "tests.rs" | "testing" | "testing.rs" | "conformance")
                )
            });
            let text = read(&file);
            let product = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = product.lines().count();
            if !is_test && path.starts_with(folder) && lines > LONGEST {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "files of more than {LONGEST} lines without their tests:\n{}", long.join("\n"));
}

#[test]
fn the_projects_own_ci_runs_the_one_command() {
    let ci = read(&root().join(".ci/run"));
    let commands: Vec<&str> = ci.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(commands, [r#"exec "$(dirname "${BASH_SOURCE[0]}")/../tests/run""#]);
    for workflow in ["ci.yml", "release.yml"] {
        let text = read(&root().join(".github/workflows").join(workflow));
        for line in
            text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix("uses: "))
        {
            let (_, version) =
                line.split_once('@').unwrap_or_else(|| panic!("{workflow}: {line} has no version"));
            let (digest, comment) =
                version.split_once(" # v").unwrap_or_else(|| panic!("{workflow}: {line} says no version"));
            let pinned =
                digest.len() == 40 && digest.bytes().all(|b| b.is_ascii_hexdigit()) && !comment.is_empty();
            assert!(pinned, "{workflow}: {line} is not pinned by its commit");
        }
        let checkouts = text.matches("actions/checkout@").count();
        assert_eq!(
            text.matches("persist-credentials: false").count(),
            checkouts,
            "{workflow} leaves a token behind"
        );
        assert!(text.contains("\npermissions: {}\n"), "{workflow} starts without permissions");
    }
}

#[test]
fn every_example_is_valid_explained_and_planned() {
    let home = tempfile::tempdir().unwrap();
    let mut examples = 0;
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let folder = entry.unwrap().path();
        assert!(folder.join("README.md").is_file(), "{} has no README.md", folder.display());
        for arguments in [vec!["validate"], vec!["plan", "--refresh=false", "--detailed-exitcode"]] {
            let output = Command::new(env!("CARGO_BIN_EXE_certplan"))
                .args(&arguments)
                .env_clear()
                .env("HOME", home.path())
                .current_dir(&folder)
                .output()
                .unwrap();
            let expected = if arguments.len() == 1 { 0 } else { 2 };
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(expected), "{} {arguments:?}: {said}", folder.display());
        }
        assert!(!folder.join(".certplan").exists(), "a plan writes nothing");
        examples += 1;
    }
    assert!(examples >= 7, "the examples are found");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust source below a folder of the repository, in order.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{} has sources", folder.display());
    found.sort();
    found
}

/// The module of the root package that a file belongs to: `plan` of `src/plan/diff.rs` and of `src/plan.rs`.
fn owner(file: &Path) -> String {
    let path = file.strip_prefix(root().join("src")).unwrap();
    let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The names that directly follow a path's beginning anywhere in the code, comments left out.
fn uses(text: &str, beginning: &str) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split(beginning).skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(group_heads(group));
        } else {
            found.insert(word(rest));
        }
    }
    found
}

/// The first words of the items of a brace group that was just opened.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => heads.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(character == '{') - i32::from(character == '}');
                item.push(character);
            }
        }
    }
    heads.push(item);
    heads.into_iter().map(|item| word(item.trim())).filter(|word| !word.is_empty()).collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages that this machine builds from, without those of other platforms only.
fn metadata() -> Value {
    let version = Command::new(env!("CARGO")).args(["-vV"]).output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--filter-platform", host])).unwrap()
}

/// The members of the workspace by name.
fn members(metadata: &Value) -> BTreeMap<String, &Value> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|package| (package["name"].as_str().unwrap().to_owned(), package))
        .collect()
}

/// What a package is built from, without what only its tests need.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| dependency["name"].as_str().unwrap())
}

/// The names of the crates that the product is built from here.
fn linked() -> BTreeSet<String> {
    let tree = cargo(&["tree", "--package", "certplan", "--edges", "normal,build", "--prefix", "none"]);
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

/// The crates that deny.toml bans.
fn banned() -> BTreeSet<String> {
    let text = read(&root().join("deny.toml"));
    let found: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \""))
        .filter_map(|rest| rest.split('"').next())
        .map(ToOwned::to_owned)
        .collect();
    assert!(found.contains("openssl"), "the bans are read");
    found
}

/// The texts in a list of a TOML section, one a line.
fn list(toml: &str, section: &str, key: &str) -> BTreeSet<String> {
    let section = toml.split(section).nth(1).unwrap();
    let list = section.split(&format!("\n{key} = [")).nth(1).unwrap().split("\n]").next().unwrap();
    list.split('"').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// Whether an SPDX expression can be met with allowed licences only.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let met = either(&mut words, allowed);
    met && words.is_empty()
}

fn either(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = both(words, allowed);
    while words.last() == Some(&"OR") {
        words.pop();
        // Read in any case, for its words have to go.
        let other = both(words, allowed);
        met = met || other;
    }
    met
}

fn both(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    let mut met = licence(words, allowed);
    while words.last() == Some(&"AND") {
        words.pop();
        let other = licence(words, allowed);
        met = met && other;
    }
    met
}

fn licence(words: &mut Vec<&str>, allowed: &BTreeSet<String>) -> bool {
    match words.pop() {
        Some("(") => {
            let met = either(words, allowed);
            words.pop() == Some(")") && met
        }
        Some(name) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().unwrap_or_default();
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        Some(name) => allowed.contains(name),
        None => false,
    }
}
