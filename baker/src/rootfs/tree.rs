//! The stacked layers as one file system in memory.
//!
//! Owns directories, inodes and the rules by which a layer changes lower ones: replacement, whiteouts,
//! opaque directories, hard links. Has no file contents and does not know archives. Invariants:
//! children are sorted by name, so that the same layers produce the same tree; no walk leaves the
//! root; a link's `layer` is the last layer that created it or something below it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use super::content::Content;
use super::error::EntryError;
use super::path::{EntryPath, NAME_MAX};

/// The most symbolic links in a path, as in Linux.
const MAX_HOPS: u32 = 40;
/// The most inodes of all layers together, including replaced ones.
const MAX_INODES: u32 = 4_000_000;
/// The most bytes of names, targets, attributes, extents and chunk tables of all layers together.
const MAX_METADATA: u64 = 1 << 30;

const ROOT: InodeId = InodeId(0);

/// The id of an inode in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InodeId(u32);

impl InodeId {
    /// The inode's index in its tree.
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Timestamp {
    pub(super) seconds: i64,
    /// Below 1,000,000,000; counts forward, also before 1970.
    pub(super) nanoseconds: u32,
}

/// Extended attributes by full name.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// The metadata of every inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Permissions with set-uid, set-gid and sticky; no file type.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) attributes: Attributes,
}

impl Metadata {
    /// For a directory that no layer describes.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            attributes: Attributes::new(),
        }
    }
}

/// The kind and content of an inode.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory(BTreeMap<Box<[u8]>, Link>),
    File(Content),
    Symlink(Box<[u8]>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// A directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) inode: InodeId,
    layer: u32,
}

/// An inode of any kind.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) metadata: Metadata,
    pub(super) node: Node,
    /// The layer that set the metadata.
    described: u32,
}

/// Whether a walk creates missing directories.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Stop,
}

/// The stacked layers.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    layer: u32,
    /// Directories whose lower content this layer has hidden. Remembered because hostile layers repeat
    /// opaque whiteouts.
    hidden: HashSet<InodeId>,
    metadata_bytes: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree with only a root directory.
    #[must_use]
    pub fn new() -> Self {
        let node = Node::Directory(BTreeMap::new());
        let root = Inode { metadata: Metadata::implied(), node, described: 0 };
        Self { inodes: vec![root], layer: 0, hidden: HashSet::new(), metadata_bytes: 0 }
    }

    /// Starts the next layer.
    pub(super) fn begin_layer(&mut self) {
        self.layer += 1;
        self.hidden.clear();
    }

    /// Creates a directory, or sets the metadata of an existing one. Its children stay.
    pub(super) fn add_directory(
        &mut self,
        path: &EntryPath<'_>,
        metadata: Metadata,
    ) -> Result<(), EntryError> {
        let Some((parent, name)) = path.split() else { return self.describe(ROOT, metadata) };
        let parent = self.make_parent(parent)?;
        let existing = self.child(parent, name).map(|link| link.inode);
        let id = match existing.filter(|id| self.is_directory(*id)) {
            Some(id) => {
                self.describe(id, metadata)?;
                id
            }
            None => self.create(metadata, Node::Directory(BTreeMap::new()))?,
        };
        self.insert(parent, name, id)
    }

    /// Creates a directory, unless it or a link to one exists.
    pub(super) fn make_directory(&mut self, path: &EntryPath<'_>) -> Result<(), EntryError> {
        self.make_parent(path.components()).map(drop)
    }

    /// Adds an inode at `path`, replacing any other.
    pub(super) fn add(
        &mut self,
        path: &EntryPath<'_>,
        metadata: Metadata,
        node: Node,
    ) -> Result<(), EntryError> {
        let (parent, name) = path.split().ok_or(EntryError::RootNotDirectory)?;
        let parent = self.make_parent(parent)?;
        let inode = self.create(metadata, node)?;
        self.insert(parent, name, inode)
    }

    /// Adds another name for the inode at `target`, which may be of a lower layer.
    pub(super) fn add_hard_link(
        &mut self,
        path: &EntryPath<'_>,
        target: &EntryPath<'_>,
    ) -> Result<(), EntryError> {
        let (target_parent, target_name) = target.split().ok_or(EntryError::LinkToDirectory)?;
        let inode = self
            .walk(target_parent, Missing::Stop)?
            .and_then(|parent| self.child(parent, target_name))
            .ok_or(EntryError::LinkTargetMissing)?
            .inode;
        if self.is_directory(inode) {
            return Err(EntryError::LinkToDirectory);
        }
        let (parent, name) = path.split().ok_or(EntryError::RootNotDirectory)?;
        let parent = self.make_parent(parent)?;
        self.insert(parent, name, inode)
    }

    /// Hides what lower layers have at `name` in `parent`. This layer's own entry stays, in any order.
    pub(super) fn hide(&mut self, parent: &[&[u8]], name: &[u8]) -> Result<(), EntryError> {
        let Some(parent) = self.walk(parent, Missing::Stop)? else { return Ok(()) };
        let Some(link) = self.child(parent, name) else { return Ok(()) };
        if link.layer < self.layer {
            if let Some(children) = self.children_mut(parent) {
                children.remove(name);
            }
        } else if self.is_directory(link.inode) {
            self.forget_lower_metadata(link.inode);
            self.hide_below(link.inode);
        }
        Ok(())
    }

    /// Hides what lower layers have in `directory`, but not the directory itself.
    pub(super) fn hide_contents(&mut self, directory: &[&[u8]]) -> Result<(), EntryError> {
        let directory = self.make_parent(directory)?;
        self.hide_below(directory);
        Ok(())
    }

    /// Charges `bytes` of metadata against the limit.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), EntryError> {
        self.metadata_bytes = self.metadata_bytes.saturating_add(bytes as u64);
        if self.metadata_bytes > MAX_METADATA {
            return Err(EntryError::TooMuchMetadata { limit: MAX_METADATA });
        }
        Ok(())
    }

    /// The root directory.
    pub(super) fn root(&self) -> InodeId {
        ROOT
    }

    /// All inodes ever created, including replaced ones.
    pub(super) fn inode_count(&self) -> usize {
        self.inodes.len()
    }

    /// The inode that `id` names.
    pub(super) fn inode(&self, id: InodeId) -> &Inode {
        // Only `create` issues ids, and inodes are never removed.
        &self.inodes[id.index()]
    }

    /// A directory's children, sorted by name; `None` for other kinds.
    pub(super) fn children(&self, id: InodeId) -> Option<&BTreeMap<Box<[u8]>, Link>> {
        match &self.inode(id).node {
            Node::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn inode_mut(&mut self, id: InodeId) -> &mut Inode {
        &mut self.inodes[id.index()]
    }

    fn children_mut(&mut self, id: InodeId) -> Option<&mut BTreeMap<Box<[u8]>, Link>> {
        match &mut self.inode_mut(id).node {
            Node::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn child(&self, parent: InodeId, name: &[u8]) -> Option<Link> {
        self.children(parent)?.get(name).copied()
    }

    fn is_directory(&self, id: InodeId) -> bool {
        matches!(self.inode(id).node, Node::Directory(_))
    }

    fn describe(&mut self, id: InodeId, metadata: Metadata) -> Result<(), EntryError> {
        self.charge(attributes_size(&metadata.attributes))?;
        let layer = self.layer;
        let inode = self.inode_mut(id);
        inode.metadata = metadata;
        inode.described = layer;
        Ok(())
    }

    fn create(&mut self, metadata: Metadata, node: Node) -> Result<InodeId, EntryError> {
        let id = u32::try_from(self.inodes.len())
            .ok()
            .filter(|id| *id < MAX_INODES)
            .ok_or(EntryError::TooManyFiles { limit: MAX_INODES })?;
        let held = match &node {
            Node::File(content) => content.held(),
            Node::Symlink(target) => target.len(),
            _ => 0,
        };
        self.charge(attributes_size(&metadata.attributes).saturating_add(held))?;
        self.inodes.push(Inode { metadata, node, described: self.layer });
        Ok(InodeId(id))
    }

    fn insert(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<(), EntryError> {
        if name.len() > NAME_MAX {
            return Err(EntryError::NameTooLong { length: name.len() });
        }
        self.charge(name.len())?;
        let link = Link { inode, layer: self.layer };
        let children = self.children_mut(parent).ok_or(EntryError::ParentNotDirectory)?;
        match children.get_mut(name) {
            Some(existing) => *existing = link,
            None => {
                children.insert(name.into(), link);
            }
        }
        Ok(())
    }

    fn make_parent(&mut self, path: &[&[u8]]) -> Result<InodeId, EntryError> {
        self.walk(path, Missing::Create)?.ok_or(EntryError::ParentNotDirectory)
    }

    /// Walks to the directory `path`, following symbolic links like a process in the image's root. With
    /// `Create`, creates missing directories, replaces lower layers' files in the way, and makes each
    /// directory on the way part of this layer.
    fn walk(&mut self, path: &[&[u8]], missing: Missing) -> Result<Option<InodeId>, EntryError> {
        let mut pending: Vec<Cow<'_, [u8]>> =
            path.iter().rev().map(|component| Cow::Borrowed(*component)).collect();
        let mut trail = Vec::new();
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            let here = trail.last().copied().unwrap_or(ROOT);
            match name.as_ref() {
                b"" | b"." => continue,
                b".." => {
                    trail.pop();
                    continue;
                }
                _ => {}
            }
            let link = self.child(here, &name);
            if let Some(Node::Symlink(target)) = link.map(|link| &self.inode(link.inode).node) {
                hops += 1;
                if hops > MAX_HOPS {
                    return Err(EntryError::LinkLoop);
                }
                if target.first() == Some(&b'/') {
                    trail.clear();
                }
                let components = target.split(|byte| *byte == b'/').rev();
                pending.extend(components.map(|component| Cow::Owned(component.to_vec())));
                continue;
            }
            let next = match link {
                Some(link) if self.is_directory(link.inode) => link.inode,
                _ if missing == Missing::Stop => return Ok(None),
                Some(link) if link.layer == self.layer => {
                    return Err(EntryError::ParentNotDirectory);
                }
                _ => self.create(Metadata::implied(), Node::Directory(BTreeMap::new()))?,
            };
            let up_to_date =
                link.is_some_and(|link| link.inode == next && link.layer == self.layer);
            if missing == Missing::Create && !up_to_date {
                self.insert(here, &name, next)?;
            }
            trail.push(next);
        }
        Ok(Some(trail.last().copied().unwrap_or(ROOT)))
    }

    fn hide_below(&mut self, directory: InodeId) {
        let layer = self.layer;
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            if !self.hidden.insert(directory) {
                continue;
            }
            let Some(children) = self.children_mut(directory) else { continue };
            children.retain(|_, link| link.layer == layer);
            let kept: Vec<InodeId> = children.values().map(|link| link.inode).collect();
            for id in kept {
                if self.is_directory(id) {
                    self.forget_lower_metadata(id);
                    pending.push(id);
                }
            }
        }
    }

    fn forget_lower_metadata(&mut self, id: InodeId) {
        if self.inode(id).described < self.layer {
            self.inode_mut(id).metadata = Metadata::implied();
        }
    }
}

fn attributes_size(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| name.len() + value.len()).sum()
}
