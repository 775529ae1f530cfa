//! Nodes that join and leave, and data that goes where the log does not reach.

#![allow(clippy::unwrap_used)]

mod driver;

use driver::cluster::Cluster;
use dstore_node::{Part, SYSTEM_RANGE, USER_RANGE};

/// A node with some data.
fn with_data() -> Cluster {
    let mut cluster = Cluster::of_one();
    cluster.until("the node leads", |cluster| cluster.leader(USER_RANGE) == Some(1));
    let client = cluster.connect(1);
    for key in 0..100 {
        assert_eq!(cluster.request(1, client, &format!("SET key{key} value{key}")), "+OK");
    }
    cluster
}

/// Three voters with some data.
fn of_three() -> Cluster {
    let mut cluster = with_data();
    cluster.join(2, "two:1");
    cluster.join(3, "three:1");
    cluster.until("three vote", |cluster| cluster.vote(&[1, 2, 3]));
    cluster
}

#[test]
fn nodes_join_get_the_data_and_vote() {
    let mut cluster = of_three();
    for node in [2, 3] {
        let client = cluster.connect(node);
        assert_eq!(cluster.request(node, client, "GET key42"), "$7 value42");
        assert_eq!(cluster.request(node, client, &format!("SET from{node} x")), "+OK");
        assert!(cluster.machines[&node].snapshots_received >= 2, "one of each range");
    }
    cluster.flush();
    assert_eq!(cluster.differing(USER_RANGE), [].into());
    assert_eq!(cluster.differing(SYSTEM_RANGE), [].into());
}

#[test]
fn nodes_beyond_the_voters_stand_by_and_take_the_place_of_one_that_leaves() {
    let mut cluster = of_three();
    cluster.join(4, "four:1");
    cluster.pass(500);
    assert_eq!(cluster.parts()[&4], Part::Learner);
    let follower = [1, 2, 3].into_iter().find(|id| Some(*id) != cluster.leader(USER_RANGE)).unwrap();
    assert_eq!(cluster.remove(follower, false).error, "");
    cluster.until("the fourth votes", |cluster| cluster.parts()[&4] == Part::Voter);
    assert!(!cluster.parts().contains_key(&follower));
    cluster.until("it is told", |cluster| cluster.machines[&follower].removed);
}

#[test]
fn a_leader_that_is_removed_hands_over_and_leaves() {
    let mut cluster = of_three();
    let leader = cluster.leader(USER_RANGE).unwrap();
    assert_eq!(cluster.remove(leader, false).error, "");
    cluster.until("another leads", |cluster| cluster.leader(USER_RANGE).is_some_and(|now| now != leader));
    cluster.until("it is told", |cluster| cluster.machines[&leader].removed);
    let other = cluster.leader(USER_RANGE).unwrap();
    let client = cluster.connect(other);
    assert_eq!(cluster.request(other, client, "GET key7"), "$6 value7");
    assert_eq!(cluster.request(other, client, "SET key7 again"), "+OK");
}

#[test]
fn clients_of_a_node_that_is_removed_get_their_answers_and_are_sent_away() {
    let mut cluster = of_three();
    let leaving = cluster.leader(USER_RANGE).unwrap();
    let (busy, idle) = (cluster.connect(leaving), cluster.connect(leaving));
    cluster.send(leaving, busy, "SET parting words");
    assert_eq!(cluster.remove(leaving, false).error, "");
    let are_gone = |cluster: &Cluster| [busy, idle].iter().all(|id| cluster.machines[&leaving].closed.contains(id));
    cluster.until("its clients are gone", are_gone);
    assert_eq!(cluster.take_replies(leaving), ["+OK"]);
    assert!(!cluster.machines[&leaving].removed, "it still belongs to the cluster while they go");
    let late = cluster.connect(leaving);
    cluster.settle();
    assert!(cluster.machines[&leaving].closed.contains(&late));
    cluster.until("it is told", |cluster| cluster.machines[&leaving].removed);
    let other = cluster.leader(USER_RANGE).unwrap();
    let client = cluster.connect(other);
    assert_eq!(cluster.request(other, client, "GET parting"), "$5 words");
}

#[test]
fn a_cluster_of_one_moves_to_another_node() {
    let mut cluster = with_data();
    let refused = cluster.remove(1, false).error;
    assert!(refused.contains("is the only one with the data"), "{refused}");
    cluster.join(2, "two:1");
    cluster.until("both vote", |cluster| cluster.vote(&[1, 2]));
    assert_eq!(cluster.remove(1, false).error, "");
    cluster
        .until("the other is alone", |cluster| cluster.machines[&1].removed && cluster.leader(USER_RANGE) == Some(2));
    let client = cluster.connect(2);
    assert_eq!(cluster.request(2, client, "GET key99"), "$7 value99");
}

#[test]
fn a_node_that_was_away_while_all_whom_it_knows_were_replaced_finds_the_others() {
    let mut cluster = of_three();
    cluster.machines.get_mut(&3).unwrap().away = true;
    for (new, address, old) in [(4, "four:1", 1), (5, "five:1", 2)] {
        cluster.join(new, address);
        cluster.until("it has caught up", |cluster| cluster.parts().get(&new) == Some(&Part::Learner));
        cluster.pass(200);
        assert_eq!(cluster.remove(old, false).error, "");
        cluster.until("it is gone", |cluster| cluster.machines[&old].removed);
    }
    let leader = cluster.leader(USER_RANGE).unwrap();
    let client = cluster.connect(leader);
    assert_eq!(cluster.request(leader, client, "SET meanwhile written"), "+OK");
    cluster.back(3);
    cluster.until("it has everything", |cluster| cluster.differing(USER_RANGE).is_empty());
    let client = cluster.connect(3);
    assert_eq!(cluster.request(3, client, "GET meanwhile"), "$7 written");
}

#[test]
fn what_would_take_the_quorum_away_is_refused_unless_it_is_forced() {
    let mut cluster = of_three();
    let leader = cluster.leader(SYSTEM_RANGE).unwrap();
    let mut others = [1, 2, 3].into_iter().filter(|id| *id != leader);
    let (away, asked) = (others.next().unwrap(), others.next().unwrap());
    cluster.machines.get_mut(&away).unwrap().away = true;
    cluster.pass(300);
    let refused = cluster.remove(asked, false).error;
    assert!(refused.contains("only 1 of 2 voters answer"), "{refused}");
    assert_eq!(cluster.remove(away, false).error, "", "the one that is away can go");
    cluster.pass(500);
    cluster.machines.get_mut(&away).unwrap().away = false;
    cluster.until("it is told when it comes back", |cluster| cluster.machines[&away].removed);
}

#[test]
fn a_join_that_makes_no_sense_is_refused() {
    let mut cluster = of_three();
    let refused = cluster.ask_to_join(9, "two:1").error;
    assert!(refused.contains("is the address of node 0000000000000002"), "{refused}");
    assert_eq!(cluster.remove(3, false).error, "");
    let refused = cluster.ask_to_join(3, "three:2").error;
    assert!(refused.contains("was removed from this cluster"), "{refused}");
    let refused = cluster.remove(77, false).error;
    assert!(refused.contains("there is no node"), "{refused}");
    cluster.join(5, "three:1");
    cluster.until("the place is taken", |cluster| cluster.parts().get(&5) == Some(&Part::Voter));
}

#[test]
fn a_follower_that_was_away_while_the_log_was_cut_gets_the_data() {
    let mut cluster = of_three();
    let leader = cluster.leader(USER_RANGE).unwrap();
    let away = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.machines.get_mut(&away).unwrap().away = true;
    let client = cluster.connect(leader);
    let begin = cluster.log_begin(leader, USER_RANGE);
    for round in 0..4 {
        for key in 0..50 {
            assert_eq!(cluster.request(leader, client, &format!("SET key{key} round{round}")), "+OK");
        }
        // Longer than a member may be silent before the log waits for it no more.
        cluster.pass(1100);
        cluster.flush();
    }
    cluster.flush();
    let cut = cluster.log_begin(leader, USER_RANGE);
    assert!(cut >= begin + 100, "the log begins at {cut}, and began at {begin}");
    let before = cluster.machines[&away].snapshots_received;
    cluster.machines.get_mut(&away).unwrap().away = false;
    cluster.until("it got a snapshot", |cluster| cluster.machines[&away].snapshots_received > before);
    cluster.flush();
    assert_eq!(cluster.differing(USER_RANGE), [].into());
    // What came as data is there after a loss of power too, and the node goes on.
    cluster.restart(away, ["one:1", "two:1", "three:1"][away as usize - 1], away == 1);
    cluster.flush();
    assert_eq!(cluster.differing(USER_RANGE), [].into());
}

#[test]
fn the_log_is_kept_for_one_that_is_away_for_a_moment() {
    let mut cluster = of_three();
    cluster.flush();
    let leader = cluster.leader(USER_RANGE).unwrap();
    let away = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let begin = cluster.log_begin(leader, USER_RANGE);
    cluster.machines.get_mut(&away).unwrap().away = true;
    let client = cluster.connect(leader);
    for round in 0..5 {
        assert_eq!(cluster.request(leader, client, &format!("SET key round{round}")), "+OK");
        cluster.flush();
    }
    assert_eq!(cluster.log_begin(leader, USER_RANGE), begin, "five flushes, eight seconds");
    let before = cluster.machines[&away].snapshots_received;
    cluster.machines.get_mut(&away).unwrap().away = false;
    cluster.pass(200);
    cluster.flush();
    assert_eq!(cluster.machines[&away].snapshots_received, before);
    assert_eq!(cluster.differing(USER_RANGE), [].into());
}

#[test]
fn a_node_that_has_moved_says_so_itself() {
    let mut cluster = of_three();
    let leader = cluster.leader(USER_RANGE).unwrap();
    let moved = [2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.restart(moved, "elsewhere:1", false);
    cluster.pass(300);
    let client = cluster.connect(leader);
    assert_eq!(cluster.request(leader, client, "SET key after"), "+OK");
    cluster.flush();
    assert_eq!(cluster.differing(USER_RANGE), [].into());
    let status = cluster.machines[&leader].node.status().unwrap();
    let member = status.members.iter().find(|member| member.node == moved).unwrap();
    assert_eq!(member.peer_address, "elsewhere:1");
}

#[test]
fn a_node_that_lost_where_the_others_are_is_told_by_them() {
    let mut cluster = with_data();
    cluster.join(2, "two:1");
    cluster.until("two vote", |cluster| cluster.vote(&[1, 2]));
    // Its log counts the other as a voter, and its data does not have the record of where that is: neither can be decided
    // without the other.
    cluster.restart(1, "one:1", true);
    cluster.until("both ranges are led", |cluster| {
        cluster.leader(SYSTEM_RANGE).is_some() && cluster.leader(USER_RANGE).is_some()
    });
    assert_eq!(cluster.machines[&1].node.status().unwrap().members.len(), 2);
}

#[test]
fn replicas_that_differ_are_found_and_named() {
    let mut cluster = of_three();
    for range in [SYSTEM_RANGE, USER_RANGE] {
        let answer = cluster.check(range);
        assert_eq!(answer.error, "");
        assert_eq!(answer.done.matches(" has ").count(), 3, "{}", answer.done);
    }
    let leader = cluster.leader(USER_RANGE).unwrap();
    let odd = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.damage(odd);
    let answer = cluster.check(USER_RANGE);
    assert!(answer.error.starts_with("REPLICAS DIFFER"), "{answer:?}");
    let status = cluster.machines[&leader].node.status().unwrap();
    assert_eq!(status.user_range().unwrap().check.as_ref().unwrap().differing(), [odd]);
    assert_eq!(status.stats.checks_failed, 1);
}

#[test]
fn a_check_does_not_wait_for_one_that_is_away() {
    let mut cluster = of_three();
    let leader = cluster.leader(USER_RANGE).unwrap();
    let away = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    cluster.machines.get_mut(&away).unwrap().away = true;
    let answer = cluster.check(USER_RANGE);
    assert_eq!(answer.error, "");
    assert!(answer.done.contains(&format!("node {away:016x} did not answer")), "{}", answer.done);
}
