//! Variants of an image's snapshot: what a snapshot fixes, and `run` asks for.
//!
//! Memory, processors, the platform, PID 1, the action after restores, the container and the running entrypoint
//! are part of a snapshot. A request for others bakes a snapshot of its own, and finds it again by its name:
//! `redis--512m`. Two dashes separate the image's name from the variant's, so that a search for an image
//! skips variants.

use supermachine::Ulimit;
use supermachine_baker::oci::Platform;
use supermachine_baker::{AfterRestore, Init, OciImageBuilder};
use supermachine_formats::Digest;
use supermachine_formats::snapshot::Snapshot;

use crate::container::ContainerArgs;

/// What separates the names of an image and a variant.
const SEPARATOR: &str = "--";

/// What a snapshot fixes. The default is what `pull` bakes without options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) memory_mib: Option<u64>,
    pub(crate) vcpus: Option<u16>,
    pub(crate) platform: Option<Platform>,
    pub(crate) init: Init,
    pub(crate) after_restore: Option<AfterRestore>,
    pub(crate) container: ContainerArgs,
    /// The entrypoint that runs in the snapshot.
    pub(crate) entrypoint: Entrypoint,
}

/// How an entrypoint differs from the image's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entrypoint {
    /// Replaces the image's `ENTRYPOINT` and `CMD`. Empty for none.
    pub(crate) program: Option<String>,
    /// Replaces the image's `CMD`.
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) user: Option<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) ulimits: Vec<Ulimit>,
}

impl Variant {
    /// Whether any snapshot of the image serves.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a snapshot has the wanted memory, processors and action, and nothing else is wanted.
    pub(crate) fn fits(&self, snapshot: &Snapshot) -> bool {
        let machine = &snapshot.machine;
        let action = snapshot.after_restore.as_ref().map(|after_restore| &after_restore.action);
        self.memory_mib.is_none_or(|mib| mib << 20 == machine.memory_size)
            && self.vcpus.is_none_or(|vcpus| vcpus == machine.vcpus)
            && self.platform.is_none()
            && self.init == Init::default()
            && self.after_restore.as_ref().is_none_or(|it| Some(&it.to_string()) == action)
            && self.container == ContainerArgs::default()
            && self.entrypoint == Entrypoint::default()
    }

    /// The name of this variant of an image's snapshot.
    pub(crate) fn name(&self, base: &str) -> String {
        let mut parts = Vec::new();
        parts.extend(self.memory_mib.map(|mib| format!("{mib}m")));
        parts.extend(self.vcpus.map(|vcpus| format!("{vcpus}cpu")));
        parts.extend(self.platform.as_ref().map(|it| it.to_string().replace(['/', ':'], "-")));
        if self.init != Init::default() {
            parts.push("init".to_owned());
        }
        let short = |text: String| -> String {
            Digest::of(text.as_bytes()).hex().chars().take(12).collect()
        };
        parts.extend(
            self.after_restore.as_ref().map(|it| format!("after-{}", short(it.to_string()))),
        );
        let ContainerArgs { read_only, tmpfs, shm_size } = &self.container;
        if *read_only {
            parts.push("ro".to_owned());
        }
        if !tmpfs.is_empty() || shm_size.is_some() {
            parts.push(format!("mounts-{}", short(format!("{tmpfs:?} {shm_size:?}"))));
        }
        if self.entrypoint != Entrypoint::default() {
            parts.push(short(format!("{:?}", self.entrypoint)));
        }
        if parts.is_empty() {
            base.to_owned()
        } else {
            format!("{base}{SEPARATOR}{}", parts.join("-"))
        }
    }

    /// Applies the variant to a bake.
    pub(crate) fn apply(&self, mut builder: OciImageBuilder) -> OciImageBuilder {
        if let Some(memory) = self.memory_mib {
            builder = builder.memory_mib(memory);
        }
        if let Some(vcpus) = self.vcpus {
            builder = builder.vcpus(vcpus);
        }
        builder = builder.init(self.init);
        if let Some(action) = &self.after_restore {
            builder = builder.after_restore(action.clone());
        }
        builder = self.container.apply(builder);
        let Entrypoint { program, command, env, user, workdir, ulimits } = &self.entrypoint;
        if let Some(program) = program {
            builder = builder.entrypoint(Some(program).filter(|program| !program.is_empty()));
        }
        if !command.is_empty() {
            builder = builder.command(command);
        }
        for (name, value) in env {
            builder = builder.env(name, value);
        }
        if let Some(user) = user {
            builder = builder.user(user);
        }
        if let Some(dir) = workdir {
            builder = builder.working_dir(dir);
        }
        for limit in ulimits {
            builder = builder.ulimit(*limit);
        }
        builder
    }
}

/// Whether a snapshot's name is that of a variant.
pub(crate) fn is_variant(name: &str) -> bool {
    name.contains(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_variants_apart_and_stay_the_same() {
        let plain = Variant::default();
        assert!(plain.is_default() && !is_variant(&plain.name("redis")));
        let sized = Variant { memory_mib: Some(512), vcpus: Some(2), ..Variant::default() };
        assert_eq!(sized.name("redis"), "redis--512m-2cpu");
        assert!(is_variant(&sized.name("redis")));
        let init = Variant { init: Init::Image, ..Variant::default() };
        assert_eq!(init.name("redis"), "redis--init");
        let with = |value: &str| Variant {
            entrypoint: Entrypoint { env: vec![("A".into(), value.into())], ..Default::default() },
            ..Variant::default()
        };
        assert_eq!(with("b").name("redis"), with("b").name("redis"));
        assert_ne!(with("b").name("redis"), with("c").name("redis"));
        let after = Variant { after_restore: Some(AfterRestore::Restart), ..Variant::default() };
        assert!(!after.is_default());
        assert!(after.name("redis").starts_with("redis--after-"));
        let read_only = ContainerArgs { read_only: true, ..ContainerArgs::default() };
        let mounts = ContainerArgs { tmpfs: vec!["/run".parse().unwrap()], ..read_only.clone() };
        let of = |container| Variant { container, ..Variant::default() }.name("redis");
        assert_eq!(of(read_only), "redis--ro");
        assert!(of(mounts).starts_with("redis--ro-mounts-"));
        let name = with("b").name(&"x".repeat(100));
        assert!(supermachine_snapshots::pack::is_name(&name), "{name}");
    }
}
