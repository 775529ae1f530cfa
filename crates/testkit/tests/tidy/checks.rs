//! The rules, one pure function each: text in, complaints out. `main.rs` runs them over the repository.

use crate::source::{functions, mask, production_lines};

/// Beyond this a file holds two ideas: part them.
pub(crate) const FILE_LINES_MAX: usize = 1_000;
/// Beyond this a function does.
pub(crate) const FUNCTION_LINES_MAX: usize = 70;

/// One thing that is wrong, said so that the reader knows what to do about it.
pub(crate) type Complaint = String;

/// A number that is over its limit today and may only fall: `(file, what, lines)`.
pub(crate) type Ratchet = (&'static str, &'static str, usize);

/// Files of Rust and their production lines, where `what` is always `"file"`.
pub(crate) fn file_lengths<'a>(files: impl Iterator<Item = (&'a str, &'a str)>, ratchet: &[Ratchet]) -> Vec<Complaint> {
    let long = files.map(|(path, text)| (path, "file".to_string(), production_lines(&mask(text))));
    over_limit(long, FILE_LINES_MAX, ratchet)
}

/// Functions and their lines, where `what` is the function's name.
pub(crate) fn function_lengths<'a>(
    files: impl Iterator<Item = (&'a str, &'a str)>,
    ratchet: &[Ratchet],
) -> Vec<Complaint> {
    let all = files.flat_map(|(path, text)| {
        functions(&mask(text)).into_iter().map(move |f| (path, f.name, f.lines)).collect::<Vec<_>>()
    });
    over_limit(all, FUNCTION_LINES_MAX, ratchet)
}

fn over_limit<'a>(
    measured: impl Iterator<Item = (&'a str, String, usize)>,
    limit: usize,
    ratchet: &[Ratchet],
) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut met = vec![false; ratchet.len()];
    for (path, what, lines) in measured.filter(|(_, _, lines)| *lines > limit) {
        match ratchet.iter().position(|(file, name, _)| *file == path && *name == what) {
            None => complaints.push(format!("{path}: {what} has {lines} lines, the limit is {limit}")),
            Some(index) => {
                met[index] = true;
                let allowed = ratchet[index].2;
                if lines > allowed {
                    complaints.push(format!("{path}: {what} grew from {allowed} to {lines} lines, it may only shrink"));
                } else if lines < allowed {
                    complaints.push(format!("{path}: {what} shrank to {lines} lines: write that into the ratchet"));
                }
            }
        }
    }
    for ((file, what, _), _) in ratchet.iter().zip(&met).filter(|(_, met)| !**met) {
        complaints.push(format!("{file}: {what} is within the limit or gone: take it off the ratchet"));
    }
    complaints
}

/// Marks of unfinished work, in any text file. The needles are put together here so that this file holds none.
pub(crate) fn unfinished_marks(path: &str, text: &str) -> Vec<Complaint> {
    let words = [["FIX", "ME"].concat(), ["XX", "X"].concat(), ["TO", "DO"].concat(), ["HA", "CK"].concat()];
    let macros = [["to", "do!"].concat(), ["unimple", "mented!"].concat(), ["db", "g!"].concat()];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let is_marked = words.iter().any(|word| holds_word(line, word)) || macros.iter().any(|m| line.contains(m));
        if is_marked {
            complaints.push(format!("{path}:{}: an unfinished mark: {}", number + 1, line.trim()));
        }
    }
    complaints
}

fn holds_word(line: &str, word: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    line.match_indices(word)
        .any(|(at, _)| is_edge(line[..at].chars().next_back()) && is_edge(line[at + word.len()..].chars().next()))
}

/// A module's first line says what it is for.
pub(crate) fn module_docs(path: &str, text: &str) -> Option<Complaint> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    let says_something = first.strip_prefix("//!").is_some_and(|rest| rest.trim().len() > 8);
    (!says_something).then(|| format!("{path}: does not begin with a `//!` line that says what the module is for"))
}

/// What code that takes time, bytes and seeds as arguments must never reach for itself.
const BANNED_IN_PURE_CRATES: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::fs::File",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// The `clippy.toml` of a pure crate: a ban on each of the above, and the two test permissions of the root's, which it
/// replaces. Spellings such as `std::collections::HashMap::new` (a ban on the randomly seeded constructor) count.
pub(crate) fn pure_crate_bans(path: &str, clippy_toml: Option<&str>) -> Vec<Complaint> {
    let Some(text) = clippy_toml else {
        return vec![format!("{path}: missing, and a pure crate needs one")];
    };
    let rules: String = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let mut complaints = Vec::new();
    for name in BANNED_IN_PURE_CRATES {
        if !["\"", "::"].iter().any(|end| rules.contains(&format!("\"{name}{end}"))) {
            complaints.push(format!("{path}: does not ban {name}"));
        }
    }
    for permission in ["allow-unwrap-in-tests = true", "allow-print-in-tests = true"] {
        if !rules.contains(permission) {
            complaints.push(format!("{path}: lacks `{permission}` (it replaces the root's file)"));
        }
    }
    complaints
}

/// Paths of somebody's machine, and hosts that only somebody's network knows.
pub(crate) fn machine_traces(path: &str, text: &str) -> Vec<Complaint> {
    let paths = [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat(), ["/ho", "me/"].concat(), ["/Us", "ers/"].concat()];
    let registries = [["index", "-url"].concat(), ["replace", "-with"].concat(), ["[regis", "tries"].concat()];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut complain = |what: &str| complaints.push(format!("{path}:{}: {what}: {}", number + 1, line.trim()));
        if paths.iter().any(|needle| line.contains(needle)) {
            complain("a path of one machine");
        }
        if registries.iter().any(|needle| line.contains(needle)) {
            complain("a package registry other than the public one");
        }
        if url_hosts(line).any(is_private_host) {
            complain("a host that only one network knows");
        }
        if path.ends_with("Cargo.lock") && line.starts_with("source = ") && !line.contains("/rust-lang/crates.io-index")
        {
            complain("a package that does not come from crates.io");
        }
    }
    complaints
}

fn url_hosts(line: &str) -> impl Iterator<Item = &str> {
    ["http://", "https://"].into_iter().flat_map(move |scheme| {
        line.match_indices(scheme).map(move |(at, _)| {
            let rest = &line[at + scheme.len()..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-_".contains(c))).unwrap_or(rest.len());
            &rest[..end]
        })
    })
}

fn is_private_host(host: &str) -> bool {
    if host.is_empty() || host == "localhost" || host.starts_with("127.") {
        return false; // a placeholder such as http://{address}/, or this machine itself
    }
    let is_address = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let private = [".internal", ".local", ".lan", ".corp", ".svc", ".home", ".intra"];
    is_address || !host.contains('.') || private.iter().any(|end| host.ends_with(end))
}

/// Every package takes its lints from the workspace.
pub(crate) fn workspace_lints(path: &str, manifest: &str) -> Option<Complaint> {
    let lines: Vec<&str> = manifest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let has = lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]);
    (!has).then(|| format!("{path}: lacks `[lints] workspace = true`"))
}

/// Names of the third-party packages in the root manifest.
pub(crate) fn third_party_dependencies(root_manifest: &str) -> Vec<&str> {
    root_manifest
        .lines()
        .skip_while(|line| line.trim() != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim())
        .filter(|name| !name.starts_with("dstore-"))
        .collect()
}

/// Each dependency stands, as `` `name` ``, on a line of the architecture page that goes on to give a reason.
pub(crate) fn dependency_reasons(root_manifest: &str, architecture: &str) -> Vec<Complaint> {
    let has_reason = |name: &str| {
        let quoted = format!("`{name}`");
        let reasons = architecture.lines().filter_map(|line| line.split_once(&quoted)).map(|(_, rest)| rest);
        reasons.into_iter().any(|reason| reason.chars().filter(|c| c.is_alphabetic()).count() >= 4)
    };
    third_party_dependencies(root_manifest)
        .into_iter()
        .filter(|name| !has_reason(name))
        .map(|name| format!("docs/ARCHITECTURE.md: does not say why the project depends on `{name}`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_function_is_refused_unless_the_ratchet_has_exactly_its_length() {
        let text = function_of(FUNCTION_LINES_MAX + 5);
        let check = |ratchet: &[Ratchet]| function_lengths([("a.rs", text.as_str())].into_iter(), ratchet).join("\n");
        assert_eq!(check(&[]), "a.rs: long has 75 lines, the limit is 70");
        assert_eq!(check(&[("a.rs", "long", 75)]), "");
        assert!(check(&[("a.rs", "long", 74)]).contains("grew"), "{}", check(&[("a.rs", "long", 74)]));
        assert!(check(&[("a.rs", "long", 76)]).contains("shrank"));
        let short = function_of(FUNCTION_LINES_MAX);
        assert!(function_lengths([("a.rs", short.as_str())].into_iter(), &[]).is_empty());
        let stale = function_lengths([("a.rs", short.as_str())].into_iter(), &[("a.rs", "long", 75)]);
        assert!(stale[0].contains("take it off"), "{stale:?}");
    }

    #[test]
    fn a_long_file_is_refused_but_its_test_module_does_not_count() {
        let code = "//! Docs.\n".to_string() + &"fn f() {}\n".repeat(FILE_LINES_MAX - 1);
        let check = |text: &str| file_lengths([("a.rs", text)].into_iter(), &[]);
        assert!(check(&code).is_empty());
        assert!(check(&(code.clone() + "#[cfg(test)]\nmod tests {\n\n\n")).len() == 1, "an unclosed module is code");
        assert_eq!(check(&(code + "fn g() {}\n")), ["a.rs: file has 1001 lines, the limit is 1000"]);
    }

    #[test]
    fn unfinished_marks_are_found_in_code_and_comments() {
        let marked = |line: &str| unfinished_marks("a.rs", line).len() == 1;
        assert!(marked(&format!("    {}()", ["to", "do!"].concat())));
        assert!(marked(&format!("    {}(\"later\")", ["unimple", "mented!"].concat())));
        assert!(marked(&format!("// {}: later", ["FIX", "ME"].concat())));
        assert!(marked(&["XX", "X"].concat()));
        assert!(!marked("mktemp name.X\u{58}X\u{58}; SET key value XX; fn undoing(todos: u8)"));
    }

    #[test]
    fn a_module_without_docs_is_found() {
        assert!(module_docs("a.rs", "use std::io;\n").is_some());
        assert!(module_docs("a.rs", "//!\nuse std::io;\n").is_some());
        assert!(module_docs("a.rs", "").is_some());
        assert!(module_docs("a.rs", "\n//! Timers on a 4-ary heap.\n").is_none());
    }

    #[test]
    fn a_pure_crate_must_ban_the_outside_world() {
        assert_eq!(pure_crate_bans("p", None).len(), 1);
        let bans: String = BANNED_IN_PURE_CRATES.iter().map(|name| format!("{{ path = \"{name}\" }},\n")).collect();
        let good = format!("allow-unwrap-in-tests = true\nallow-print-in-tests = true\ndisallowed = [\n{bans}]\n");
        assert!(pure_crate_bans("p", Some(&good)).is_empty());
        for line in good.lines().filter(|line| line.contains("std::") || line.contains("allow-")) {
            let without = good.replace(line, &format!("# {line}"));
            assert_eq!(pure_crate_bans("p", Some(&without)).len(), 1, "without {line}");
        }
    }

    #[test]
    fn traces_of_a_machine_are_found() {
        let traced = |path: &str, line: &str| machine_traces(path, line).len() == 1;
        assert!(traced("a.md", &format!("see {}me/x", ["/ho", "me/"].concat())));
        assert!(traced("a.md", &format!("{}tmp", ["/wo", "rk/"].concat())));
        assert!(traced("a.sh", &format!("pip install --{}=x", ["index", "-url"].concat())));
        assert!(traced("a.sh", &format!("curl http{}10.1.2.3:80/", "://")));
        assert!(traced("a.sh", &format!("curl http{}mirror.internal/x", "://")));
        assert!(traced("a.sh", &format!("curl http{}mirror/x", "://")));
        assert!(traced("Cargo.lock", "source = \"git+x\""));
        assert!(!traced("Cargo.lock", "source = \"registry+https://github.com/rust-lang/crates.io-index\""));
        assert!(!traced("a.md", "https://raft.github.io/raft.pdf and http://127.0.0.1:7380/ and http://{address}/"));
    }

    #[test]
    fn a_package_without_the_workspace_lints_is_found() {
        assert!(workspace_lints("p", "[package]\nname = \"p\"\n").is_some());
        assert!(workspace_lints("p", "[lints.rust]\nx = \"deny\"\n").is_some());
        assert!(workspace_lints("p", "[package]\n\n[lints]\nworkspace = true\n").is_none());
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace]\n[workspace.dependencies]\ndstore-kv = { path = \"x\" }\n# why\nmio = \"1\"\nslab = \"0.4\"\n[profile.release]\nx = 1\n";
        assert_eq!(third_party_dependencies(manifest), ["mio", "slab"]);
        let page = "| `mio` | epoll |\n| `slab` | |\n";
        assert_eq!(dependency_reasons(manifest, page).len(), 1, "a bare name is not a reason");
        assert!(dependency_reasons(manifest, &page.replace("`slab` |", "`slab` | connections by number")).is_empty());
    }
}
