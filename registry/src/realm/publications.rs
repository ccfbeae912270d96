//! What a version of a role brought, read back from the signed files.

use std::collections::BTreeMap;

use shared::{
    api::Publication,
    id::{Digest, TargetPath},
    manifest::Manifest,
    policy::Policy,
    time::Time,
    trust::{
        Rules,
        writer::{Document, Target, Targets},
    },
    version::{SoftwareVersion, VersionNumber},
};

use crate::blobs::{Blobs, FileName};

/// Returns the manifests and policies that this version of a role was the first to list.
///
/// Files that cannot be read are left out: this is an index, and decides nothing.
pub(crate) fn publications(
    blobs: &Blobs,
    rules: &Rules,
    role: &str,
    version: u64,
    published_at: Time,
) -> Vec<Publication> {
    let read = |version| blobs.read(&FileName::metadata(version, role)).ok().flatten();
    let targets = |bytes: &[u8]| Targets::read(bytes, role, rules).ok().map(|read| read.targets);
    let Some(bytes) = read(version) else { return Vec::new() };
    let new = targets(&bytes).unwrap_or_default();
    let old = version.checked_sub(1).and_then(read).and_then(|bytes| targets(&bytes));
    let old: BTreeMap<String, Target> = old.unwrap_or_default();
    let signers = Document::read(&bytes, role, rules).map_or_else(
        |_| Vec::new(),
        |document| document.signers().into_iter().map(ToString::to_string).collect(),
    );
    let mut publications = Vec::new();
    for (path, target) in new.iter().filter(|(path, target)| old.get(*path) != Some(target)) {
        let digest = Digest::from(target.sha256);
        let Some((path, content)) = TargetPath::parse(path).ok().and_then(|path| {
            let content = content(blobs, &path, digest)?;
            Some((path, content))
        }) else {
            continue;
        };
        publications.push(Publication {
            target: path,
            epoch: content.epoch,
            version: content.version,
            digest,
            role: role.to_owned(),
            role_version: version,
            signers: signers.clone(),
            published_at,
            note: content.note,
        });
    }
    publications
}

struct Content {
    epoch: u32,
    version: VersionNumber,
    note: String,
}

fn content(blobs: &Blobs, path: &TargetPath, digest: Digest) -> Option<Content> {
    let bytes = blobs.read(&FileName::Target { path: path.clone(), digest }).ok()??;
    let ours = SoftwareVersion::current();
    match path {
        TargetPath::Policy(_) => {
            let policy = Policy::parse(&bytes, ours).ok()?;
            Some(Content { epoch: 0, version: policy.version, note: String::new() })
        }
        TargetPath::Manifest(..) => {
            let Manifest { epoch, version, note, .. } = Manifest::parse(&bytes, ours).ok()?;
            Some(Content { epoch, version, note })
        }
    }
}
