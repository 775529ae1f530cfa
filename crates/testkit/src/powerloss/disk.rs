//! A directory as a disk holds it: names and files, each with what is durable and what is not yet.
//!
//! [`Disk::replay`] follows a journal; [`Disk::now`] is what a reader sees; [`Disk::after_crash`] is what a power loss
//! leaves. Pure: no file is touched here.
//!
//! Names obey POSIX at its strictest: a file's creation, renaming or removal is durable when its *directory* was synced
//! since, and syncing the file itself says nothing about its name. (ext4 happens to be kinder.) Without that sync a
//! crash keeps or loses each such step by itself, except that a step never survives one before it on the same name:
//! a file cannot have been renamed unless it had been created.

use std::collections::{BTreeMap, BTreeSet};

use super::PowerLossError;
use super::choose::Choose;
use super::contents::{Contents, Edit, Style};
use super::journal::Event;

/// A whole directory tree: files by their relative path, and the directories in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tree {
    /// Files and their bytes.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Directories, without the root.
    pub directories: BTreeSet<String>,
}

/// Index into [`Disk::nodes`]; the root is 0.
type NodeId = usize;
const ROOT: NodeId = 0;

#[derive(Clone, Debug)]
enum Node {
    File(Contents),
    Directory {
        /// Names as they are now; what a crash leaves of them is worked out from `Disk::durable_names`.
        now: BTreeMap<String, NodeId>,
    },
}

/// A name in a directory.
type Slot = (NodeId, String);

/// A step that changed names: afterwards each slot holds this, or nothing. A rename has two slots, the rest have one.
#[derive(Clone, Debug)]
struct NameChange {
    sequence: u64,
    slots: Vec<(Slot, Option<NodeId>)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    inodes: BTreeMap<u64, NodeId>,
    durable_names: BTreeMap<Slot, NodeId>,
    name_changes: Vec<NameChange>,
    /// Number of events replayed.
    sequence: u64,
    /// What that number was when the present journal began: a sync names the events it covers within its journal.
    journal_began: u64,
}

impl Disk {
    /// A disk on which all of `tree` is durable.
    pub(crate) fn holding(tree: Tree) -> Disk {
        let mut disk = Disk {
            nodes: vec![Node::Directory { now: BTreeMap::new() }],
            inodes: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            sequence: 0,
            journal_began: 0,
        };
        let directories = tree.directories.into_iter().map(|path| (path, Node::Directory { now: BTreeMap::new() }));
        let files = tree.files.into_iter().map(|(path, bytes)| (path, Node::File(Contents::durable(bytes))));
        for (path, node) in directories.chain(files) {
            let slot = disk.slot(&path).expect("a tree names each directory before what is in it");
            let id = disk.add(node);
            disk.set_now(&slot, Some(id));
            disk.durable_names.insert(slot, id);
        }
        disk
    }

    fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    // ---- finding things -------------------------------------------------------------------------------------------

    fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(ROOT, |at, name| match &self.nodes[at] {
            Node::Directory { now } => now.get(name).copied(),
            Node::File(_) => None,
        })
    }

    fn known(&self, path: &str) -> Result<NodeId, PowerLossError> {
        self.find(path).ok_or_else(|| PowerLossError::Journal(format!("{path:?} appears in it from nowhere")))
    }

    fn slot(&self, path: &str) -> Result<Slot, PowerLossError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.known(parent)?, name.to_string()))
    }

    fn set_now(&mut self, (directory, name): &Slot, node: Option<NodeId>) {
        let Node::Directory { now } = &mut self.nodes[*directory] else { unreachable!("slots are in directories") };
        match node {
            Some(node) => now.insert(name.clone(), node),
            None => now.remove(name),
        };
    }

    // ---- replaying ------------------------------------------------------------------------------------------------

    /// Follows what a process did.
    pub(crate) fn replay(&mut self, events: &[Event]) -> Result<(), PowerLossError> {
        self.journal_began = self.sequence;
        for event in events {
            self.step(event)?;
            self.sequence += 1;
        }
        Ok(())
    }

    fn step(&mut self, event: &Event) -> Result<(), PowerLossError> {
        match event {
            Event::Open { inode, path, created, truncated } => {
                let node =
                    if *created { self.create(path, Node::File(Contents::default()))? } else { self.known(path)? };
                self.inodes.insert(*inode, node);
                if *truncated {
                    self.edit(*inode, Edit::Resize(0))?;
                }
            }
            Event::MakeDirectory { inode, path } => {
                let node = self.create(path, Node::Directory { now: BTreeMap::new() })?;
                self.inodes.insert(*inode, node);
            }
            Event::Write { inode, offset, bytes } => {
                self.edit(*inode, Edit::Write { offset: *offset, bytes: bytes.clone() })?;
            }
            Event::Truncate { inode, length } => self.edit(*inode, Edit::Resize(*length))?,
            Event::Allocate { inode, mode, offset, length } => self.allocate(*inode, *mode, *offset, *length)?,
            Event::Sync { inode, covers } => {
                let covers = self.journal_began + covers;
                match self.open_node(*inode)? {
                    (_, Node::File(contents)) => contents.sync(covers),
                    (id, Node::Directory { .. }) => self.sync_names(id, covers),
                }
            }
            Event::SyncFailed { inode, covers } => {
                let covers = self.journal_began + covers;
                if let (_, Node::File(contents)) = self.open_node(*inode)? {
                    contents.sync_failed(covers);
                }
            }
            Event::Rename { from, to } => {
                let node = self.known(from)?;
                let (from, to) = (self.slot(from)?, self.slot(to)?);
                self.rename(vec![(from, None), (to, Some(node))]);
            }
            Event::Unlink { path } => {
                let slot = self.slot(path)?;
                self.rename(vec![(slot, None)]);
            }
            Event::Link { from, to } => {
                let (node, slot) = (self.known(from)?, self.slot(to)?);
                self.rename(vec![(slot, Some(node))]);
            }
            Event::Untracked { what } => return Err(PowerLossError::Untracked(what.clone())),
        }
        Ok(())
    }

    fn create(&mut self, path: &str, node: Node) -> Result<NodeId, PowerLossError> {
        let slot = self.slot(path)?;
        let id = self.add(node);
        self.rename(vec![(slot, Some(id))]);
        Ok(id)
    }

    fn rename(&mut self, slots: Vec<(Slot, Option<NodeId>)>) {
        for (slot, node) in &slots {
            self.set_now(slot, *node);
        }
        self.name_changes.push(NameChange { sequence: self.sequence, slots });
    }

    fn open_node(&mut self, inode: u64) -> Result<(NodeId, &mut Node), PowerLossError> {
        let id =
            *self.inodes.get(&inode).ok_or_else(|| PowerLossError::Journal(format!("inode {inode} never opened")))?;
        Ok((id, &mut self.nodes[id]))
    }

    fn edit(&mut self, inode: u64, edit: Edit) -> Result<(), PowerLossError> {
        let sequence = self.sequence;
        match self.open_node(inode)? {
            (_, Node::File(contents)) => contents.change(sequence, edit),
            (_, Node::Directory { .. }) => return Err(PowerLossError::Journal("a write to a directory".into())),
        }
        Ok(())
    }

    fn allocate(&mut self, inode: u64, mode: u32, offset: u64, length: u64) -> Result<(), PowerLossError> {
        let mode = mode as i32;
        let (keep_size, punch, zero) =
            (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE, libc::FALLOC_FL_ZERO_RANGE);
        if mode & !(keep_size | punch | zero) != 0 {
            return Err(PowerLossError::Untracked(format!("fallocate with mode {mode:#x}")));
        }
        if mode & keep_size == 0 {
            self.edit(inode, Edit::Extend(offset + length))?;
        }
        if mode & (punch | zero) != 0 {
            self.edit(inode, Edit::Zero { offset, length })?;
        }
        Ok(())
    }

    /// Makes durable what the covered name changes of one directory did, and what those build on.
    fn sync_names(&mut self, directory: NodeId, covers: u64) {
        let mut wanted: BTreeSet<Slot> = BTreeSet::new();
        let mut selected = vec![false; self.name_changes.len()];
        for (index, change) in self.name_changes.iter().enumerate().rev() {
            let covered = change.sequence < covers && change.slots.iter().any(|((dir, _), _)| *dir == directory);
            if covered || change.slots.iter().any(|(slot, _)| wanted.contains(slot)) {
                selected[index] = true;
                wanted.extend(change.slots.iter().map(|(slot, _)| slot.clone()));
            }
        }
        let mut index = 0;
        let durable_names = &mut self.durable_names;
        self.name_changes.retain(|change| {
            if selected[index] {
                apply_names(durable_names, change);
            }
            index += 1;
            !selected[index - 1]
        });
    }

    // ---- looking --------------------------------------------------------------------------------------------------

    /// What a reader sees while the power is on.
    pub(crate) fn now(&self) -> Tree {
        let mut names = BTreeMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            if let Node::Directory { now } = node {
                names.extend(now.iter().map(|(name, node)| ((id, name.clone()), *node)));
            }
        }
        self.tree(&names, &mut |contents| contents.now())
    }

    /// What is left when the power goes now.
    pub(crate) fn after_crash(&self, style: Style, choices: &mut impl Choose) -> Tree {
        let mut names = self.durable_names.clone();
        let mut lost: BTreeSet<&Slot> = BTreeSet::new();
        let mut lost_one = false;
        for change in &self.name_changes {
            let builds_on_lost = change.slots.iter().any(|(slot, _)| lost.contains(slot));
            let keep = !builds_on_lost
                && match style {
                    Style::Worst => false,
                    Style::Best => true,
                    Style::InOrder => !lost_one && choices.choose(4) != 0,
                    Style::Scattered => choices.choose(2) == 1,
                };
            if keep {
                apply_names(&mut names, change);
            } else {
                lost_one = true;
                lost.extend(change.slots.iter().map(|(slot, _)| slot));
            }
        }
        self.tree(&names, &mut |contents| contents.after_crash(style, choices))
    }

    fn tree(&self, names: &BTreeMap<Slot, NodeId>, bytes_of: &mut impl FnMut(&Contents) -> Vec<u8>) -> Tree {
        let mut tree = Tree::default();
        let mut first_path: BTreeMap<NodeId, String> = BTreeMap::new(); // a file with two names is decided once
        let mut walk = vec![(ROOT, String::new())];
        while let Some((directory, prefix)) = walk.pop() {
            let first = (directory, String::new());
            for ((_, name), node) in names.range(first..).take_while(|((dir, _), _)| *dir == directory) {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
                match &self.nodes[*node] {
                    Node::File(contents) => {
                        let bytes = match first_path.get(node) {
                            Some(other) => tree.files[other].clone(),
                            None => bytes_of(contents),
                        };
                        first_path.entry(*node).or_insert_with(|| path.clone());
                        tree.files.insert(path, bytes);
                    }
                    Node::Directory { .. } => {
                        tree.directories.insert(path.clone());
                        walk.push((*node, path));
                    }
                }
            }
        }
        tree
    }
}

fn apply_names(names: &mut BTreeMap<Slot, NodeId>, change: &NameChange) {
    for (slot, node) in &change.slots {
        match node {
            Some(node) => names.insert(slot.clone(), *node),
            None => names.remove(slot),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::choose::{Exhaustive, Seeded};
    use super::*;

    fn create(inode: u64, path: &str) -> Event {
        Event::Open { inode, path: path.into(), created: true, truncated: false }
    }

    fn open_root(inode: u64) -> Event {
        Event::Open { inode, path: String::new(), created: false, truncated: false }
    }

    fn write(inode: u64, text: &str) -> Event {
        Event::Write { inode, offset: 0, bytes: text.into() }
    }

    fn rename(from: &str, to: &str) -> Event {
        Event::Rename { from: from.into(), to: to.into() }
    }

    /// Every state that a crash after `events` can leave, each as `name=bytes` in order of name.
    fn outcomes(tree: Tree, events: &[Event]) -> BTreeSet<String> {
        let mut disk = Disk::holding(tree);
        disk.replay(events).unwrap();
        let mut all = Exhaustive::new();
        let mut seen = BTreeSet::new();
        while all.another_round() {
            seen.insert(shown(&disk.after_crash(Style::Scattered, &mut all)));
        }
        seen
    }

    fn shown(tree: &Tree) -> String {
        let files = tree.files.iter().map(|(path, bytes)| format!("{path}={}", String::from_utf8_lossy(bytes)));
        let directories = tree.directories.iter().map(|path| format!("{path}/"));
        directories.chain(files).collect::<Vec<_>>().join(" ")
    }

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    fn holding(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| (path.to_string(), text.as_bytes().to_vec())).collect();
        Tree { files, directories: BTreeSet::new() }
    }

    #[test]
    fn a_synced_file_in_an_unsynced_directory_may_be_gone() {
        let mut events = vec![open_root(1), create(2, "f"), write(2, "x"), Event::Sync { inode: 2, covers: 3 }];
        assert_eq!(outcomes(Tree::default(), &events), set(&["", "f=x"]));
        events.push(Event::Sync { inode: 1, covers: 4 });
        assert_eq!(outcomes(Tree::default(), &events), set(&["f=x"]));
    }

    #[test]
    fn a_file_in_a_synced_directory_may_be_empty() {
        let events = [open_root(1), create(2, "f"), write(2, "x"), Event::Sync { inode: 1, covers: 3 }];
        assert_eq!(outcomes(Tree::default(), &events), set(&["f=", "f=x"]));
    }

    #[test]
    fn an_atomic_replacement_shows_the_old_or_the_new_and_only_the_new_once_synced() {
        let mut events = vec![
            open_root(1),
            create(2, "new"),
            write(2, "2"),
            Event::Sync { inode: 2, covers: 3 },
            rename("new", "f"),
        ];
        let old = holding(&[("f", "1")]);
        assert_eq!(outcomes(old.clone(), &events), set(&["f=1", "f=1 new=2", "f=2"]));
        events.push(Event::Sync { inode: 1, covers: 5 });
        assert_eq!(outcomes(old, &events), set(&["f=2"]));
    }

    #[test]
    fn replacement_without_syncing_the_new_file_can_leave_nothing_in_it() {
        let events =
            [open_root(1), create(2, "new"), write(2, "2"), rename("new", "f"), Event::Sync { inode: 1, covers: 4 }];
        assert_eq!(outcomes(holding(&[("f", "1")]), &events), set(&["f=", "f=2"]));
    }

    #[test]
    fn a_removed_file_may_come_back_until_the_directory_is_synced() {
        let mut events = vec![open_root(1), Event::Unlink { path: "f".into() }];
        assert_eq!(outcomes(holding(&[("f", "1")]), &events), set(&["", "f=1"]));
        events.push(Event::Sync { inode: 1, covers: 2 });
        assert_eq!(outcomes(holding(&[("f", "1")]), &events), set(&[""]));
    }

    #[test]
    fn a_file_is_lost_with_the_directory_that_holds_it() {
        let events = [
            Event::MakeDirectory { inode: 1, path: "d".into() },
            create(2, "d/f"),
            Event::Sync { inode: 1, covers: 2 },
        ];
        assert_eq!(outcomes(Tree::default(), &events), set(&["", "d/ d/f="]));
    }

    #[test]
    fn a_rename_between_directories_is_durable_whole() {
        let tree = Tree { directories: BTreeSet::from(["a".into(), "b".into()]), ..holding(&[("a/f", "1")]) };
        let open_b = Event::Open { inode: 3, path: "b".into(), created: false, truncated: false };
        let events = [open_b, rename("a/f", "b/f"), Event::Sync { inode: 3, covers: 2 }];
        assert_eq!(outcomes(tree, &events), set(&["a/ b/ b/f=1"]));
    }

    #[test]
    fn an_inode_that_is_used_again_is_another_file() {
        let events =
            [create(2, "f"), write(2, "old"), Event::Unlink { path: "f".into() }, create(2, "g"), write(2, "new")];
        let mut disk = Disk::holding(Tree::default());
        disk.replay(&events).unwrap();
        assert_eq!(shown(&disk.now()), "g=new");
    }

    #[test]
    fn the_extreme_styles_keep_all_or_nothing_unsynced() {
        let events = [open_root(1), create(2, "g"), write(2, "x"), Event::Unlink { path: "f".into() }];
        let mut disk = Disk::holding(holding(&[("f", "1")]));
        disk.replay(&events).unwrap();
        let mut choices = Seeded::new(1);
        assert_eq!(shown(&disk.after_crash(Style::Worst, &mut choices)), "f=1");
        assert_eq!(shown(&disk.after_crash(Style::Best, &mut choices)), "g=x");
        assert_eq!(shown(&disk.now()), "g=x");
    }

    #[test]
    fn what_could_not_be_followed_is_an_error() {
        let mut disk = Disk::holding(Tree::default());
        let outcome = disk.replay(&[Event::Untracked { what: "a mapping".into() }]);
        assert!(matches!(outcome, Err(PowerLossError::Untracked(_))));
        assert!(matches!(disk.replay(&[write(9, "x")]), Err(PowerLossError::Journal(_))));
    }
}
