//! Finds the snapshot to run, or pulls it.

use std::path::Path;
use std::sync::Arc;

use supermachine_baker::oci::{self, FetchOptions};
use supermachine_baker::{BakeError, OciImageBuilder, Store, StoreError, Summary};

use super::super::pull::{self, FetchArgs};
use super::request::PullPolicy;
use crate::error::{Error, SnapshotError};
use crate::progress::Progress;
use crate::variant::{Variant, is_variant};
use crate::{image_name, report, store};

/// The snapshot that is wanted.
#[derive(Debug)]
pub(super) struct Search<'a> {
    /// The name of a snapshot, or an image.
    pub(super) target: &'a str,
    pub(super) variant: &'a Variant,
    pub(super) policy: PullPolicy,
    /// Whether the snapshot only serves to run commands in.
    pub(super) for_commands: bool,
    pub(super) fetch: &'a FetchArgs,
    /// The store.
    pub(super) dir: &'a Path,
    pub(super) quiet: bool,
}

impl Search<'_> {
    /// Returns the snapshot's name, after a pull if there is none.
    pub(super) fn find(&self) -> Result<String, Error> {
        let is_name = store::has(self.dir, self.target)?;
        let always = self.policy == PullPolicy::Always;
        if is_name && self.variant.is_default() && !always {
            return Ok(self.target.to_owned());
        }
        if !is_name {
            check_path(self.target)?;
        }
        // Without the options, as a password is read only for a pull.
        let sources = oci::candidates(self.target, &FetchOptions::default());
        let references: Vec<_> = sources.iter().flatten().map(ToString::to_string).collect();
        if is_name {
            let store = Store::open(self.dir)?;
            let summary = store.summary(store.digest(self.target)?)?;
            if self.variant.fits(&summary.snapshot) && !always {
                return Ok(self.target.to_owned());
            }
            let reference = image_of(&summary);
            if !reference.is_some_and(|reference| references.contains(&reference)) {
                let (name, machine) = (self.target.to_owned(), &summary.snapshot.machine);
                let (memory_mib, vcpus) = (machine.memory_size >> 20, machine.vcpus);
                return Err(SnapshotError::Fixed { name, memory_mib, vcpus }.into());
            }
        }
        sources.map_err(BakeError::from)?;
        let known = match store::open_existing(Some(self.dir))? {
            Some(store) => self.known(&store, &references)?,
            None => None,
        };
        let wanted = references.join(" or ");
        match (known, self.policy) {
            (Some(name), PullPolicy::Missing | PullPolicy::Never) => Ok(name),
            (None, PullPolicy::Never) => {
                let store = self.dir.to_owned();
                Err(SnapshotError::NeverPulled { wanted, store }.into())
            }
            (known, _) => self.pull(known, wanted),
        }
    }

    /// The name of a snapshot of this variant of one of the images.
    fn known(&self, store: &Store, references: &[String]) -> Result<Option<String>, Error> {
        let wanted = self.variant.name(self.short_name());
        let is_image = |name: &str| {
            // Skips damaged snapshots; `ls` reports them.
            let summary = store.digest(name).and_then(|digest| store.summary(digest));
            summary.ok().filter(|summary| {
                image_of(summary).is_some_and(|image| references.contains(&image))
            })
        };
        if is_image(&wanted).is_some() {
            return Ok(Some(wanted));
        }
        for name in store.names()? {
            if !is_variant(&name)
                && is_image(&name).is_some_and(|summary| self.variant.fits(&summary.snapshot))
            {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn pull(&self, known: Option<String>, wanted: String) -> Result<String, Error> {
        if !self.quiet && known.is_none() {
            report::note(&format!("no snapshot of {wanted} yet, pulling it"));
        }
        let pulled = self.bake(known);
        pulled.map_err(|error| match error {
            error @ Error::Snapshot(SnapshotError::NameTaken { .. }) => error,
            source => {
                let (store, source) = (self.dir.to_owned(), Box::new(source));
                SnapshotError::NotPulled { wanted, store, source }.into()
            }
        })
    }

    fn bake(&self, known: Option<String>) -> Result<String, Error> {
        pull::check_host()?;
        let store = store::open(Some(self.dir))?;
        let options = self.fetch.options()?;
        let mut searching = options.clone();
        searching.progress = Some(Arc::new(Progress::new(self.quiet)) as _);
        let source = image_name::locate_with(self.target, &searching, &store)?;
        let name = match known {
            Some(name) => name,
            None => self.free_name(&store, &source.to_string())?,
        };
        let builder = OciImageBuilder::from_source(source).name(name);
        let builder = self.variant.apply(builder).for_commands(self.for_commands);
        Ok(pull::bake_with(builder, options, &store, self.quiet)?.name)
    }

    /// The image's name without registry, folders, tag and digest.
    fn short_name(&self) -> &str {
        let last = self.target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        last.split(['@', ':']).next().unwrap_or_default()
    }

    /// A free name for an image's snapshot: `redis`, or `redis-7.2` if another image has that.
    fn free_name(&self, store: &Store, reference: &str) -> Result<String, Error> {
        let last = self.target.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let names = [self.short_name().to_owned(), last.replace(['@', ':'], "-")];
        let names = names.map(|name| self.variant.name(&name));
        for name in &names {
            if matches!(store.digest(name), Err(BakeError::Store(StoreError::NoSuchName { .. }))) {
                return Ok(name.clone());
            }
        }
        let [name, _] = names;
        let summary = store.digest(&name).and_then(|digest| store.summary(digest)).ok();
        let image = summary.as_ref().and_then(image_of).unwrap_or_else(|| "unknown".to_owned());
        Err(SnapshotError::NameTaken { name, image, wanted: reference.to_owned() }.into())
    }
}

fn image_of(summary: &Summary) -> Option<String> {
    summary.snapshot.workload.as_ref().map(|workload| workload.reference.clone())
}

/// Refuses a path that does not exist, which would otherwise be taken for an image's name.
fn check_path(target: &str) -> Result<(), Error> {
    let is_path = target.starts_with(['.', '/', '~']);
    match std::fs::metadata(target) {
        Err(source) if is_path => Err(Error::file("open", Path::new(target))(source)),
        _ => Ok(()),
    }
}
