//! All nodes of a cluster asked, starting with some of them.
//!
//! No single node is believed: one that has just returned knows little of the others, and one that lags knows where they
//! were. So every node that any node names is asked, wherever any says that it is, and what all of them say goes together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::info::{Member, NodeInfo};
use super::status::Asked;

/// How long a node may take to answer. Longer than any pause that is worth calling healthy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What came of asking everybody.
pub(super) struct Gathered {
    /// The nodes that are, or were, members.
    pub(super) nodes: Vec<Asked>,
    /// Why the first ones did not answer.
    pub(super) silent: Vec<String>,
}

/// Asks `addresses`, whoever they name, and so on; each group at the same time, so that one that hangs holds up no other.
pub(super) fn gather(addresses: &[String], password: Option<&str>) -> Gathered {
    let ask = |address: &str| NodeInfo::ask(address, password, TIMEOUT).map_err(|error| brief(&error));
    gather_with(addresses, ask)
}

/// The first of `addresses` that answers, if one does.
pub(super) fn first(addresses: &[String], password: Option<&str>) -> Option<String> {
    addresses.iter().find(|address| NodeInfo::ask(address, password, TIMEOUT).is_ok()).cloned()
}

fn gather_with(addresses: &[String], ask: impl Fn(&str) -> Result<NodeInfo, String> + Sync) -> Gathered {
    let mut answers: BTreeMap<String, Result<NodeInfo, String>> = BTreeMap::new();
    let mut wanted: Vec<String> = addresses.to_vec();
    while !wanted.is_empty() {
        let asked = std::thread::scope(|scope| {
            let threads: Vec<_> =
                wanted.iter().map(|address| scope.spawn(|| (address.clone(), ask(address)))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
        });
        answers.extend(asked);
        let named = answers.values().flatten().flat_map(|info| &info.members).filter_map(Member::address);
        let new: BTreeSet<String> = named.filter(|address| !answers.contains_key(address)).collect();
        wanted = new.into_iter().collect();
    }
    let silent = addresses.iter().filter_map(|address| {
        let why = answers.get(address)?.as_ref().err()?;
        Some(format!("{address}: {why}"))
    });
    let silent = silent.collect();
    // Of several clusters, the one of the first that answers is meant.
    let mut given = addresses.iter().filter_map(|address| answers.get(address)?.as_ref().ok());
    let cluster = given.next().map(|info| info.cluster.clone());
    answers.retain(|_, answer| answer.as_ref().map_or(true, |info| Some(&info.cluster) == cluster.as_ref()));
    Gathered { nodes: by_node(&answers), silent }
}

/// What each node said, or why it did not, in the order of their ids.
fn by_node(answers: &BTreeMap<String, Result<NodeInfo, String>>) -> Vec<Asked> {
    let infos = || answers.iter().filter_map(|(address, answer)| Some((address, answer.as_ref().ok()?)));
    let mut nodes: BTreeMap<String, Asked> = BTreeMap::new();
    for (address, info) in infos() {
        nodes.insert(
            info.node.clone(),
            Asked { node: info.node.clone(), address: address.clone(), answer: Ok(info.clone()) },
        );
    }
    for member in infos().flat_map(|(_, info)| &info.members) {
        if nodes.contains_key(&member.node) {
            continue;
        }
        let (address, why) = match member.address() {
            None => (member.peer.clone(), "it has not said yet where clients reach it".to_owned()),
            Some(address) => {
                let why = match answers.get(&address) {
                    Some(Ok(info)) => format!("another node answers there: {}", info.node),
                    Some(Err(why)) => why.clone(),
                    None => "another cluster's node answers there".to_owned(),
                };
                (address, why)
            }
        };
        let unknown = member.address().is_none();
        // Who knows more of it is believed.
        let better = nodes.get(&member.node).is_none_or(|_| !unknown);
        if better {
            nodes.insert(member.node.clone(), Asked { node: member.node.clone(), address, answer: Err(why) });
        }
    }
    nodes.into_values().collect()
}

/// An error without the number that the system has for it.
fn brief(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::info::tests::text;
    use super::*;

    /// Node 1 to 3 at h1:7001 to h3:7001, of which each knows the ones given.
    fn knows(node: u64, others: &[u64]) -> NodeInfo {
        let mut info = NodeInfo::parse(&text(node, "follower", Some(1), 5)).unwrap();
        info.members.retain(|member| others.iter().any(|other| format!("{other:016x}") == member.node));
        info
    }

    fn asked(gathered: &Gathered) -> Vec<(&str, Result<(), &str>)> {
        let nodes = gathered.nodes.iter();
        nodes.map(|asked| (&asked.address[..2], asked.answer.as_ref().map(|_| ()).map_err(String::as_str))).collect()
    }

    #[test]
    fn everybody_whom_anybody_names_is_asked() {
        let cluster = |address: &str| match address {
            "h1:7001" => Ok(knows(1, &[1, 2])),
            "h2:7001" => Ok(knows(2, &[2, 3])),
            _ => Err("Connection refused".to_owned()),
        };
        let gathered = gather_with(&["h1:7001".to_owned()], cluster);
        assert_eq!(asked(&gathered), [("h1", Ok(())), ("h2", Ok(())), ("h3", Err("Connection refused"))]);
        // One that has just returned, and knows only itself, is helped by the others that were given.
        let returned = |address: &str| if address == "h1:7001" { Ok(knows(1, &[1])) } else { cluster(address) };
        assert_eq!(asked(&gather_with(&["h1:7001".to_owned()], returned)).len(), 1);
        let given = ["h1:7001".to_owned(), "h2:7001".to_owned()];
        assert_eq!(asked(&gather_with(&given, returned)).len(), 3);
    }

    #[test]
    fn a_node_that_moved_is_found_where_any_says_that_it_is() {
        let cluster = |address: &str| match address {
            "h1:7001" => {
                let mut info = knows(1, &[1, 2]);
                info.members[1].client = "old:7001".to_owned();
                Ok(info)
            }
            "h3:7001" => Ok(knows(3, &[1, 2, 3])),
            "h2:7001" => Ok(knows(2, &[1, 2, 3])),
            _ => Err("Connection refused".to_owned()),
        };
        let gathered = gather_with(&["h1:7001".to_owned(), "h3:7001".to_owned()], cluster);
        assert_eq!(asked(&gathered), [("h1", Ok(())), ("h2", Ok(())), ("h3", Ok(()))]);
    }

    #[test]
    fn nodes_of_other_clusters_are_left_out_and_silence_has_a_reason() {
        let cluster = |address: &str| match address {
            "h1:7001" => Ok(NodeInfo { cluster: "a".to_owned(), ..knows(1, &[1]) }),
            "h2:7001" => Ok(NodeInfo { cluster: "b".to_owned(), ..knows(2, &[2]) }),
            _ => Err("no reply in time".to_owned()),
        };
        let given = ["h3:7001".to_owned(), "h1:7001".to_owned(), "h2:7001".to_owned()];
        let gathered = gather_with(&given, cluster);
        assert_eq!(asked(&gathered), [("h1", Ok(()))]);
        assert_eq!(gathered.silent, ["h3:7001: no reply in time"]);
    }
}
