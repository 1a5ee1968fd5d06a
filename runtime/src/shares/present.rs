//! Servers for the folders of a configuration.

use std::sync::Arc;

use supermachine_formats::snapshot::Snapshot;
use supermachine_formats::snapshot::device::Slot;
use supermachine_fs::{self as fs, HostFolder};
use supermachine_vmm::{FileServer, Known, share_slots};

use super::Shared;
use crate::error::{HostError, InvalidInput};
use crate::{Error, VmConfig};

/// Starts to serve the folders that a configuration has to a machine that starts from this snapshot.
pub(crate) fn start(config: &VmConfig, snapshot: &Snapshot) -> Result<Vec<Shared>, Error> {
    let folders = config.shares();
    let targets: Vec<&str> = folders.iter().map(HostFolder::target).collect();
    for (count, target) in targets.iter().enumerate() {
        if targets.iter().take(count).any(|other| other == target) {
            return Err(InvalidInput::SharedTwice { target: (*target).to_owned() }.into());
        }
    }
    let slots = share_slots(snapshot, &targets)?;
    let shared = |(folder, slot): (&HostFolder, u8)| {
        let server = server(folder, snapshot.slots.get(usize::from(slot)));
        let server = server.map_err(|source| HostError::Folder { source })?;
        Ok(Shared {
            slot,
            target: folder.target().to_owned(),
            is_read_only: folder.is_read_only(),
            server: Arc::new(Answering(server)),
        })
    };
    folders.iter().zip(slots).map(shared).collect()
}

fn server(folder: &HostFolder, slot: Option<&Slot>) -> Result<fs::Server, fs::FolderError> {
    match slot {
        Some(Slot::Share(_, share)) => {
            let (nodes, handles) = (share.nodes.clone(), share.handles.clone());
            fs::Server::resume(folder, &fs::Known { nodes, handles })
        }
        _ => fs::Server::open(folder),
    }
}

/// A server, as a machine's device asks it.
#[derive(Debug)]
struct Answering(fs::Server);

impl FileServer for Answering {
    fn answer(&self, request: &[u8], room: usize) -> Vec<u8> {
        self.0.answer(request, room)
    }

    fn known(&self) -> Known {
        let fs::Known { nodes, handles } = self.0.known();
        Known { nodes, handles }
    }
}
