//! The outputs of a derivation file, which Nix keeps in a table of its own.

use std::{fs::File, io::Read as _, path::Path};

use shared::nix::StorePath;

use super::{LocalStoreError, layout::io_error};

/// Largest derivation that is read; the largest of Nixpkgs has a few MiB.
const MAX_LEN: u64 = 64 * 1024 * 1024;

/// An output whose path is known before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) path: StorePath,
}

/// Reads the outputs of the derivation `path`, which really lies at `real`.
pub(super) fn outputs(path: &StorePath, real: &Path) -> Result<Vec<Output>, LocalStoreError> {
    let mut text = Vec::new();
    let file = File::open(real).map_err(io_error("open", real))?;
    file.take(MAX_LEN).read_to_end(&mut text).map_err(io_error("read", real))?;
    parse(&text).ok_or_else(|| LocalStoreError::Derivation(path.clone()))
}

/// Parses the first field, the list of outputs: `Derive([("out","/nix/store/…","",""),…],`.
///
/// Newer Nix writes `DrvWithVersion("…",` before the list when experiments are on.
fn parse(text: &[u8]) -> Option<Vec<Output>> {
    let mut rest = Text(text);
    if rest.skip(b"DrvWithVersion(").is_some() {
        rest.string()?;
        rest.skip(b",[")?;
    } else {
        rest.skip(b"Derive([")?;
    }
    let mut outputs = Vec::new();
    loop {
        rest.skip(b"(")?;
        let name = rest.string()?;
        rest.skip(b",")?;
        let path = rest.string()?;
        rest.skip(b",")?;
        rest.string()?;
        rest.skip(b",")?;
        rest.string()?;
        rest.skip(b")")?;
        // A path that depends on what will be built is left empty.
        if !path.is_empty() {
            outputs.push(Output { name, path: StorePath::parse(&path).ok()? });
        }
        if rest.skip(b",").is_none() {
            rest.skip(b"],")?;
            return Some(outputs);
        }
    }
}

struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn skip(&mut self, wanted: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(wanted)?;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        self.skip(b"\"")?;
        let mut bytes = Vec::new();
        loop {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            match first {
                b'"' => return String::from_utf8(bytes).ok(),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    bytes.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => *other,
                    });
                }
                other => bytes.push(*other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0";

    #[test]
    fn reads_the_outputs_that_have_a_path() {
        let text = format!(
            r#"Derive([("dev","","r:sha256",""),("out","{PATH}","","")],[],[],"x","/bin/sh",[],[])"#
        );
        let outputs = parse(text.as_bytes()).unwrap();
        assert_eq!(outputs.len(), 1);
        assert_eq!(outputs[0].name, "out");
        assert_eq!(outputs[0].path.to_string(), PATH);
    }

    #[test]
    fn refuses_what_is_no_derivation() {
        for text in [
            "",
            "Derive([",
            "Derive([],",
            r#"Derive([("out","/etc/passwd","","")],"#,
            r#"Derive([("out","","","")"#,
            r#"Derive([("out\"#,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
