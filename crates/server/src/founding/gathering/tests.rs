//! Foundings in memory: every order, loss and crash; and those that must not succeed.

use super::*;

fn addresses(count: usize) -> Vec<PeerAddress> {
    (0..count).map(|place| format!("10.0.0.{}:7101", place + 1).parse().unwrap()).collect()
}

fn texts(peers: &[PeerAddress]) -> Vec<String> {
    peers.iter().map(PeerAddress::to_string).collect()
}

fn plan(cluster: u128, nodes: &[u64]) -> Plan {
    let peers = texts(&addresses(nodes.len()));
    let founder = |(node, address): (&u64, String)| Founder { node: NodeId(*node), address };
    Plan { cluster: ClusterId(cluster), founders: nodes.iter().zip(peers).map(founder).collect() }
}

fn says(node: u64, plan: Option<Plan>) -> Heard {
    Heard::Founder { node: NodeId(node), peers: texts(&addresses(3)), plan }
}

fn gathering(own: usize, node: u64, plan: Option<Plan>) -> Gathering {
    Gathering::new(addresses(3), own, NodeId(node), plan)
}

/// A member that tells no more than its cluster.
fn member(cluster: u128) -> Heard {
    Heard::Member { cluster: ClusterId(cluster), founders: Vec::new() }
}

const FRESH: ClusterId = ClusterId(77);

#[test]
fn the_first_plans_when_all_have_answered_and_founds_when_all_hold_the_plan() {
    let mut first = gathering(0, 1, None);
    assert_eq!(first.begin(FRESH), Step::Wait);
    assert_eq!(first.handle(1, says(2, None), FRESH), Ok(Step::Wait));
    assert_eq!(first.missing().unwrap(), "waiting for 1 of 2 peers: 10.0.0.3:7101 not asked yet");
    let planned = plan(FRESH.0, &[1, 2, 3]);
    assert_eq!(first.handle(2, says(3, None), FRESH), Ok(Step::Write(planned.clone())));
    assert_eq!(first.handle_written(planned.clone()), Step::Wait);
    assert_eq!(first.handle(1, says(2, Some(planned.clone())), ClusterId(78)), Ok(Step::Wait));
    assert_eq!(first.missing().unwrap(), "waiting for 1 of 2 peers: 10.0.0.3:7101 has not taken the plan yet");
    assert_eq!(
        first.handle(1, Heard::Away("gone".to_owned()), FRESH),
        Ok(Step::Wait),
        "it holds the plan all the same"
    );
    assert_eq!(first.handle(2, says(3, Some(planned.clone())), FRESH), Ok(Step::Found(planned)));
    assert_eq!(first.missing(), None);
}

#[test]
fn the_others_take_the_plan_over_and_believe_a_member() {
    let planned = plan(9, &[1, 2, 3]);
    let mut second = gathering(1, 2, None);
    assert_eq!(second.handle(2, says(3, None), FRESH), Ok(Step::Wait), "only the first plans");
    assert_eq!(second.handle(0, says(1, None), FRESH), Ok(Step::Wait));
    assert_eq!(second.handle(0, says(1, Some(planned.clone())), FRESH), Ok(Step::Write(planned.clone())));
    assert_eq!(second.handle_written(planned.clone()), Step::Wait);
    assert_eq!(second.handle(2, member(9), FRESH), Ok(Step::Found(planned)));
}

#[test]
fn a_cluster_of_one_peer_has_nobody_to_wait_for() {
    let mut alone = Gathering::new(addresses(1), 0, NodeId(1), None);
    let planned = plan(FRESH.0, &[1]);
    assert_eq!(alone.begin(FRESH), Step::Write(planned.clone()));
    assert_eq!(alone.handle_written(planned.clone()), Step::Found(planned));
}

#[test]
fn a_new_node_among_members_founds_nothing() {
    let told = |heard: Heard| gathering(1, 20, None).handle(0, heard, FRESH).unwrap_err().to_string();
    let lost = told(Heard::Member { cluster: ClusterId(9), founders: plan(9, &[1, 2, 3]).founders });
    for part in ["10.0.0.2:7101 was node 0000000000000002 of cluster 00000000000000000000000000000009", "removed"] {
        assert!(lost.contains(part), "{part} is missing in: {lost}");
    }
    for stranger in [told(member(9)), told(Heard::Member { cluster: ClusterId(9), founders: plan(9, &[1]).founders })] {
        assert!(
            stranger.contains("10.0.0.1:7101 is a member of cluster 0000000000000000000000000000000"),
            "{stranger}"
        );
    }
}

#[test]
fn a_disk_lost_between_plan_and_founding_is_noticed_on_both_sides() {
    let planned = plan(9, &[1, 2, 3]);
    let replaced = |result: Result<Step, FoundingError>| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("10.0.0.2:7101 stands in the plan") && text.contains("0000000000000014"), "{text}");
    };
    replaced(gathering(1, 20, None).handle(0, says(1, Some(planned.clone())), FRESH));
    replaced(gathering(0, 1, Some(planned)).handle(1, says(20, None), FRESH));
}

#[test]
fn two_plans_and_two_clusters_do_not_mix() {
    let ours = plan(9, &[1, 2, 3]);
    let mut node = gathering(1, 2, Some(ours));
    let other = FoundingError::OtherPlan { peer: addresses(3)[2].clone() };
    assert_eq!(node.handle(2, says(3, Some(plan(10, &[1, 2, 3]))), FRESH), Err(other));
    let error = node.handle(2, member(10), FRESH).unwrap_err();
    assert!(matches!(error, FoundingError::Foreign { theirs: ClusterId(10), .. }), "{error}");
}

#[test]
fn other_lists_and_double_nodes_are_waited_for_by_name() {
    let mut first = gathering(0, 1, None);
    let other = Heard::Founder { node: NodeId(2), peers: texts(&addresses(2)), plan: None };
    assert_eq!(first.handle(1, other, FRESH), Ok(Step::Wait));
    assert_eq!(first.handle(2, says(3, None), FRESH), Ok(Step::Wait));
    let missing = first.missing().unwrap();
    assert!(missing.contains("10.0.0.2:7101 was given other peers: 10.0.0.1:7101,10.0.0.2:7101"), "{missing}");
    assert_eq!(first.handle(1, says(3, None), FRESH), Ok(Step::Wait));
    let missing = first.missing().unwrap();
    assert!(missing.contains("10.0.0.2:7101 is the same node as another"), "{missing}");
}

/// What a founder has on its disk.
#[derive(Clone, Default)]
struct Disk {
    plan: Option<Plan>,
    member: bool,
}

/// A small generator of its own: the test needs choices, not quality.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Nodes ask each other in any order, answers get lost, nodes crash and come back with what their disks hold.
fn random_founding(seed: u64) {
    let choices = &mut Choices(seed);
    let count = 2 + choices.below(4);
    let peers = addresses(count);
    let mut disks = vec![Disk::default(); count];
    let node_at = |place: usize| NodeId(100 + place as u64);
    let start = |place: usize, disk: &Disk| Gathering::new(peers.clone(), place, node_at(place), disk.plan.clone());
    let mut running: Vec<Gathering> = (0..count).map(|place| start(place, &disks[place])).collect();
    let mut asked = 0;
    while disks.iter().any(|disk| !disk.member) {
        asked += 1;
        assert!(asked < 100_000, "seed {seed}: the founding does not end");
        let asker = choices.below(count);
        if disks[asker].member {
            continue;
        }
        if choices.below(20) == 0 {
            running[asker] = start(asker, &disks[asker]);
        }
        let place = (asker + 1 + choices.below(count - 1)) % count;
        let heard = match choices.below(4) {
            0 => Heard::Away("lost".to_owned()),
            _ if disks[place].member => member(disks[place].plan.as_ref().unwrap().cluster.0),
            _ => Heard::Founder { node: node_at(place), peers: texts(&peers), plan: disks[place].plan.clone() },
        };
        let fresh = ClusterId(1000 + asked as u128);
        let mut step =
            running[asker].handle(place, heard, fresh).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if let Step::Write(plan) = step {
            disks[asker].plan = Some(plan.clone());
            if choices.below(3) == 0 {
                // Dies between the write and all that follows.
                running[asker] = start(asker, &disks[asker]);
                continue;
            }
            step = running[asker].handle_written(plan);
        }
        if let Step::Found(plan) = step {
            assert!(
                disks.iter().all(|disk| disk.plan.as_ref() == Some(&plan)),
                "seed {seed}: not everybody holds the plan"
            );
            disks[asker].member = true;
        }
    }
}

#[test]
fn every_founding_ends_with_one_cluster_whatever_is_lost_and_whoever_crashes() {
    match std::env::var("FOUNDING_SEED") {
        Ok(seed) => random_founding(seed.parse().unwrap()),
        Err(_) => (0..2000).for_each(random_founding),
    }
}
