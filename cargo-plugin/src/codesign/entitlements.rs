//! Entitlements: a dictionary of rights for a program, as a property list.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use plist::{Dictionary, Value};

use super::error::CodesignError;

/// The entitlement for Hypervisor.framework.
pub(crate) const HYPERVISOR: &str = "com.apple.security.hypervisor";
/// Real entitlements have a few hundred bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// The entitlements of a program that runs machines: those of a file, and the hypervisor's unless the
/// file sets it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entitlements(Dictionary);

impl Entitlements {
    /// Reads a property list, in XML or binary, and adds the hypervisor's entitlement.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, CodesignError> {
        let mut dictionary = path.map(dictionary).transpose()?.unwrap_or_default();
        if !dictionary.contains_key(HYPERVISOR) {
            dictionary.insert(HYPERVISOR.to_owned(), Value::Boolean(true));
        }
        Ok(Self(dictionary))
    }

    /// The property list as XML.
    pub(crate) fn xml(&self) -> Result<Vec<u8>, CodesignError> {
        let mut xml = Vec::new();
        Value::Dictionary(self.0.clone())
            .to_writer_xml(&mut xml)
            .map_err(|source| CodesignError::Encoding { source })?;
        Ok(xml)
    }
}

fn dictionary(path: &Path) -> Result<Dictionary, CodesignError> {
    let failed = |source| CodesignError::file("read", path)(source);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let path = path.to_path_buf();
    let size = bytes.len() as u64;
    if size > LARGEST_FILE {
        return Err(CodesignError::TooLarge { path, size, most: LARGEST_FILE });
    }
    let dictionary = match Value::from_reader(Cursor::new(bytes)) {
        Ok(Value::Dictionary(dictionary)) => dictionary,
        Ok(_) => return Err(CodesignError::NotADictionary { path }),
        Err(_) => return Err(CodesignError::Entitlements { path }),
    };
    match dictionary.iter().find(|(_, value)| !is_allowed(value)) {
        Some((key, _)) => Err(CodesignError::Value { path, key: key.clone() }),
        None => Ok(dictionary),
    }
}

/// The DER form of entitlements has no other types.
fn is_allowed(value: &Value) -> bool {
    match value {
        Value::Boolean(_) | Value::Integer(_) | Value::String(_) => true,
        Value::Array(values) => values.iter().all(is_allowed),
        Value::Dictionary(values) => values.values().all(is_allowed),
        _ => false,
    }
}
