//! The files that a guest knows, by the numbers that it knows them by.
//!
//! A node is a place in the folder, a name in another node, and holds no descriptor: a guest may know as
//! many files as there is memory for. What is at the place is compared with the node's file at each use, so
//! that a file which was replaced or moved by others is not taken for the one that the guest knows.

use std::collections::HashMap;
use std::sync::Arc;

use rustix::io::Errno;
use supermachine_formats::snapshot::device::ShareNode;

use crate::abi::ROOT;
use crate::handles::Handle;
use crate::os::FileId;

/// The most bytes of a path: deeper folders cannot be made over a share.
const MAX_PATH: usize = 64 << 10;
/// The most files that a guest may know at once.
const MAX_NODES: usize = 1 << 20;

/// Numbers from here on are not taken from a snapshot, so that there are always later ones.
const LAST_RECORDED: u64 = 1 << 62;

/// Where a file is: a name in a folder.
type Place = (u64, Box<[u8]>);

/// The files that a guest knows.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: HashMap<u64, Node>,
    by_file: HashMap<FileId, u64>,
    /// Nodes of a snapshot whose files were not looked at yet.
    unseen: HashMap<Place, u64>,
    last: u64,
    most: usize,
}

#[derive(Debug)]
struct Node {
    /// `None` if it has no name any more.
    place: Option<Place>,
    /// `None` before the first look at the node of a snapshot.
    file: Option<FileId>,
    lookups: u64,
    /// Nodes that have their place in this one.
    children: u64,
    /// A handle of the file, by which it is reached without a name.
    held: Option<Arc<Handle>>,
}

/// How to reach a node's file.
#[derive(Debug)]
pub(crate) struct Location {
    /// The path from the shared folder.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) file: Option<FileId>,
    pub(crate) held: Option<Arc<Handle>>,
}

impl Nodes {
    /// Only the shared folder.
    pub(crate) fn new() -> Self {
        Self {
            nodes: HashMap::new(),
            by_file: HashMap::new(),
            unseen: HashMap::new(),
            last: ROOT,
            most: MAX_NODES,
        }
    }

    /// What a snapshot's guest knows. Nodes that contradict each other are left out: the guest finds
    /// that their files are gone.
    pub(crate) fn from_state(state: &[ShareNode]) -> Self {
        let mut nodes = Self::new();
        for ShareNode { id, parent, name, lookups } in state {
            let is_free = (ROOT + 1..LAST_RECORDED).contains(id) && !nodes.nodes.contains_key(id);
            if !is_free || nodes.nodes.len() == nodes.most || !is_step(name) {
                continue;
            }
            let place = (!name.is_empty()).then(|| (*parent, name.clone().into_boxed_slice()));
            if let Some(place) = &place {
                nodes.unseen.insert(place.clone(), *id);
            }
            let node = Node { place, file: None, lookups: *lookups, children: 0, held: None };
            nodes.nodes.insert(*id, node);
            nodes.last = nodes.last.max(*id);
        }
        let parents: Vec<u64> =
            nodes.nodes.values().filter_map(|node| Some(node.place.as_ref()?.0)).collect();
        for parent in parents {
            if let Some(node) = nodes.nodes.get_mut(&parent) {
                node.children += 1;
            }
        }
        nodes
    }

    /// What a snapshot records.
    pub(crate) fn state(&self) -> Vec<ShareNode> {
        let mut state: Vec<_> = self
            .nodes
            .iter()
            .map(|(id, node)| {
                let (parent, name) = match &node.place {
                    Some((parent, name)) => (*parent, name.to_vec()),
                    None => (ROOT, Vec::new()),
                };
                ShareNode { id: *id, parent, name, lookups: node.lookups }
            })
            .collect();
        state.sort_by_key(|node| node.id);
        state
    }

    /// How to reach a node.
    ///
    /// # Errors
    /// `ESTALE` if there is no such node, and `ENAMETOOLONG` if the path is too long.
    pub(crate) fn locate(&self, id: u64) -> Result<Location, Errno> {
        if id == ROOT {
            return Ok(Location { path: Some(Vec::new()), file: None, held: None });
        }
        let node = self.nodes.get(&id).ok_or(Errno::STALE)?;
        Ok(Location { path: self.path(node)?, file: node.file, held: node.held.clone() })
    }

    /// Counts a reference of the guest to a file, which is now at this place. Returns its node.
    ///
    /// # Errors
    /// `ENFILE` if the guest knows too many files.
    pub(crate) fn know(&mut self, file: FileId, place: Option<(u64, &[u8])>) -> Result<u64, Errno> {
        let place = place.map(|(parent, name)| (parent, Box::from(name)));
        let unseen = place.as_ref().and_then(|place| self.unseen.get(place)).copied();
        if let Some(id) = self.by_file.get(&file).copied().or(unseen) {
            self.identify(id, file);
            self.put(id, place);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.lookups = node.lookups.saturating_add(1);
            }
            return Ok(id);
        }
        if self.nodes.len() >= self.most {
            return Err(Errno::NFILE);
        }
        self.last += 1;
        let id = self.last;
        let node = Node { place: None, file: Some(file), lookups: 1, children: 0, held: None };
        self.nodes.insert(id, node);
        self.by_file.insert(file, id);
        self.put(id, place);
        Ok(id)
    }

    /// Remembers what file a snapshot's node is.
    pub(crate) fn identify(&mut self, id: u64, file: FileId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.file.is_none()) else { return };
        node.file = Some(file);
        if let Some(place) = &node.place {
            self.unseen.remove(place);
        }
        self.by_file.entry(file).or_insert(id);
    }

    /// The guest has moved a file.
    pub(crate) fn moved(&mut self, file: FileId, parent: u64, name: &[u8]) {
        if let Some(id) = self.by_file.get(&file).copied() {
            self.put(id, Some((parent, Box::from(name))));
        }
    }

    /// The guest gives references back.
    pub(crate) fn forget(&mut self, id: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups = node.lookups.saturating_sub(count);
            self.remove_unused(id);
        }
    }

    /// Sets by which handle a file is reached without a name.
    pub(crate) fn hold(&mut self, id: u64, handle: Arc<Handle>) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.held = Some(handle);
        }
    }

    /// A handle is closed; `other` is another one of the same file.
    pub(crate) fn release(&mut self, id: u64, closed: &Arc<Handle>, other: Option<Arc<Handle>>) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, closed))
        {
            node.held = other;
        }
    }

    /// The number of known files.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Sets the most files that a guest may know.
    #[cfg(test)]
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    fn path(&self, node: &Node) -> Result<Option<Vec<u8>>, Errno> {
        let mut names: Vec<&[u8]> = Vec::new();
        let (mut node, mut length) = (node, 0);
        loop {
            let Some((parent, name)) = &node.place else { return Ok(None) };
            names.push(name);
            length += name.len() + 1;
            // A circle, which hosts can make by moving folders, is too long as well.
            if length > MAX_PATH {
                return Err(Errno::NAMETOOLONG);
            }
            if *parent == ROOT {
                break;
            }
            let Some(above) = self.nodes.get(parent) else { return Ok(None) };
            node = above;
        }
        names.reverse();
        Ok(Some(names.join(&b'/')))
    }

    fn put(&mut self, id: u64, place: Option<Place>) {
        let Some(place) = place else { return };
        let parent = place.0;
        let Some(node) = self.nodes.get_mut(&id).filter(|_| parent != id) else { return };
        if node.place.as_ref() == Some(&place) {
            return;
        }
        let former = node.place.replace(place);
        if let Some(above) = self.nodes.get_mut(&parent) {
            above.children += 1;
        }
        if let Some(former) = former {
            self.unseen.remove(&former);
            self.leave(former.0);
        }
    }

    /// A node has its place no longer in this one.
    fn leave(&mut self, parent: u64) {
        if let Some(above) = self.nodes.get_mut(&parent) {
            above.children = above.children.saturating_sub(1);
            self.remove_unused(parent);
        }
    }

    /// Removes a node that neither the guest nor another node needs, and those above that only it needed.
    fn remove_unused(&mut self, id: u64) {
        let mut id = id;
        while self.nodes.get(&id).is_some_and(|node| node.lookups == 0 && node.children == 0) {
            let Some(node) = self.nodes.remove(&id) else { return };
            if let Some(file) = node.file.filter(|file| self.by_file.get(file) == Some(&id)) {
                self.by_file.remove(&file);
            }
            let Some(place) = node.place else { return };
            self.unseen.remove(&place);
            let parent = place.0;
            let Some(above) = self.nodes.get_mut(&parent) else { return };
            above.children = above.children.saturating_sub(1);
            id = parent;
        }
    }
}

/// Whether a recorded name is one step in a folder, or none.
fn is_step(name: &[u8]) -> bool {
    name != b"."
        && name != b".."
        && name.len() <= 255
        && !name.iter().any(|b| matches!(b, 0 | b'/'))
}
