//! The `.narinfo` file of a binary cache.
//!
//! The file is one `Name: value` a line. What Nix would misread without complaint (a missing
//! space, a blank line) is an error here. `URL`, `Compression`, `FileHash`, `FileSize` and
//! `Deriver` are covered by no signature: treat them as hints from a stranger.

use std::{collections::BTreeSet, fmt, fmt::Write as _};

use super::{
    content_address::{ContentAddress, ContentAddressError},
    hash::{Hash, HashError, Sha256},
    path_info::PathInfo,
    signature::{Signature, SignatureError},
    store_path::{StorePath, StorePathError},
};

/// Longest narinfo that is read, in bytes; a path with 10 000 references fits.
pub const MAX_LEN: usize = 1024 * 1024;

/// How the file behind `URL` is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// XZ, what Nix writes by default.
    Xz,
    /// Zstandard.
    Zstd,
    /// bzip2, meant when the field is absent.
    Bzip2,
    /// gzip.
    Gzip,
    /// Brotli.
    Brotli,
    /// The LZ4 frame format.
    Lz4,
}

impl Compression {
    const ALL: [Self; 7] =
        [Self::None, Self::Xz, Self::Zstd, Self::Bzip2, Self::Gzip, Self::Brotli, Self::Lz4];

    /// Returns the value of the `Compression` field.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
        }
    }

    /// Returns what Nix appends to `.nar` in the file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Bzip2 => ".bz2",
            Self::Gzip => ".gz",
            Self::Brotli => ".br",
            Self::Lz4 => ".lz4",
        }
    }

    /// Returns the compression of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|compression| compression.name() == name)
    }
}

/// A narinfo: a path, and where its NAR can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path and who vouches for it.
    pub info: PathInfo,
    /// Where the file is, relative to the cache; hostile until checked.
    pub url: String,
    /// How the file is compressed.
    pub compression: Compression,
    /// Hash of the file as it is stored, which nobody vouches for.
    pub file_hash: Option<Hash>,
    /// Size of the file as it is stored in bytes, which nobody vouches for.
    pub file_size: Option<u64>,
}

/// Why a file is no narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    /// Longer than [`MAX_LEN`], or not UTF-8.
    #[error("narinfo is longer than {MAX_LEN} bytes or no UTF-8 text")]
    NotText,
    /// A line that is not `Name: value` and a line feed.
    #[error("narinfo line {0} is not of the form `Name: value`")]
    Line(usize),
    /// A field that must be there is not.
    #[error("narinfo has no {0} field")]
    Missing(&'static str),
    /// A field that may come once came again.
    #[error("narinfo line {line} repeats {field}")]
    Repeated {
        /// The field.
        field: &'static str,
        /// The line of the second one.
        line: usize,
    },
    /// A number that is none, or 0 where that is no size.
    #[error("narinfo has `{value}` as {field}")]
    Number {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A compression that is not supported.
    #[error("narinfo has compression `{0}`, which is not supported")]
    Compression(String),
    /// `StorePath`, `References` or `Deriver` is no store path.
    #[error("narinfo has a bad {field}")]
    StorePath {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: StorePathError,
    },
    /// `NarHash` or `FileHash` is no hash.
    #[error("narinfo has a bad {field}")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: HashError,
    },
    /// `Sig` is no signature.
    #[error("narinfo has a bad Sig")]
    Signature(#[source] SignatureError),
    /// `CA` is no content address.
    #[error("narinfo has a bad CA")]
    ContentAddress(#[source] ContentAddressError),
}

/// The fields as they stand in the file.
#[derive(Default)]
struct Fields<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    signatures: Vec<&'a str>,
    content_address: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn split(text: &'a str) -> Result<Self, NarInfoError> {
        let mut fields = Self::default();
        let mut content_address_seen = false;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            let (name, value) = line
                .strip_suffix('\n')
                .and_then(|line| line.split_once(": "))
                .ok_or(NarInfoError::Line(number))?;
            match name {
                "StorePath" => fields.store_path = Some(value),
                "URL" => fields.url = Some(value),
                "Compression" => fields.compression = Some(value),
                "FileHash" => fields.file_hash = Some(value),
                "FileSize" => fields.file_size = Some(value),
                "NarHash" => fields.nar_hash = Some(value),
                "NarSize" => fields.nar_size = Some(value),
                "References" => {
                    if fields.references.is_some_and(|earlier| !earlier.is_empty()) {
                        let field = "References";
                        return Err(NarInfoError::Repeated { field, line: number });
                    }
                    fields.references = Some(value);
                }
                "Deriver" => fields.deriver = Some(value),
                "Sig" => fields.signatures.push(value),
                "CA" => {
                    if content_address_seen {
                        return Err(NarInfoError::Repeated { field: "CA", line: number });
                    }
                    content_address_seen = true;
                    fields.content_address = Some(value).filter(|value| !value.is_empty());
                }
                _ => {}
            }
        }
        Ok(fields)
    }
}

impl NarInfo {
    /// Parses a file.
    ///
    /// A scalar field that comes twice counts as its last value, as in Nix; unknown fields are
    /// ignored.
    ///
    /// # Errors
    /// Names the first field or line that is not as it must be.
    pub fn parse(bytes: &[u8]) -> Result<Self, NarInfoError> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_LEN);
        let fields = Fields::split(text.ok_or(NarInfoError::NotText)?)?;
        let path = required("StorePath", fields.store_path)?;
        let path = StorePath::parse(path)
            .map_err(|source| NarInfoError::StorePath { field: "StorePath", source })?;
        let nar_hash = Sha256::parse(required("NarHash", fields.nar_hash)?)
            .map_err(|source| NarInfoError::Hash { field: "NarHash", source })?;
        let file_hash = fields.file_hash.map(Hash::parse).transpose();
        let file_hash =
            file_hash.map_err(|source| NarInfoError::Hash { field: "FileHash", source })?;
        let signatures: Result<Vec<_>, _> =
            fields.signatures.into_iter().map(Signature::parse).collect();
        let content_address = fields.content_address.map(ContentAddress::parse).transpose();
        Ok(Self {
            info: PathInfo {
                path,
                nar_hash,
                nar_size: size("NarSize", required("NarSize", fields.nar_size)?)?,
                references: parse_references(fields.references.unwrap_or_default())?,
                deriver: parse_deriver(fields.deriver)?,
                signatures: signatures.map_err(NarInfoError::Signature)?,
                content_address: content_address.map_err(NarInfoError::ContentAddress)?,
            },
            url: required("URL", fields.url.filter(|url| !url.is_empty()))?.to_owned(),
            compression: parse_compression(fields.compression)?,
            file_hash,
            file_size: fields.file_size.map(|value| number("FileSize", value)).transpose()?,
        })
    }
}

fn required<'a>(field: &'static str, value: Option<&'a str>) -> Result<&'a str, NarInfoError> {
    value.ok_or(NarInfoError::Missing(field))
}

fn number(field: &'static str, value: &str) -> Result<u64, NarInfoError> {
    let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| NarInfoError::Number { field, value: value.to_owned() })
}

fn size(field: &'static str, value: &str) -> Result<u64, NarInfoError> {
    match number(field, value)? {
        0 => Err(NarInfoError::Number { field, value: value.to_owned() }),
        size => Ok(size),
    }
}

fn parse_references(value: &str) -> Result<BTreeSet<StorePath>, NarInfoError> {
    value
        .split(' ')
        .filter(|base_name| !base_name.is_empty())
        .map(StorePath::from_base_name)
        .collect::<Result<_, _>>()
        .map_err(|source| NarInfoError::StorePath { field: "References", source })
}

fn parse_deriver(value: Option<&str>) -> Result<Option<StorePath>, NarInfoError> {
    value
        .filter(|value| *value != "unknown-deriver")
        .map(StorePath::from_base_name)
        .transpose()
        .map_err(|source| NarInfoError::StorePath { field: "Deriver", source })
}

fn parse_compression(value: Option<&str>) -> Result<Compression, NarInfoError> {
    value.map_or(Ok(Compression::Bzip2), |name| {
        Compression::from_name(name).ok_or_else(|| NarInfoError::Compression(name.to_owned()))
    })
}

/// Writes the file in the order that Nix writes it.
impl fmt::Display for NarInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = &self.info;
        writeln!(f, "StorePath: {}", info.path)?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression.name())?;
        if let Some(hash) = &self.file_hash {
            writeln!(f, "FileHash: {hash}")?;
        }
        if let Some(size) = self.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
        writeln!(f, "NarHash: {}", info.nar_hash)?;
        writeln!(f, "NarSize: {}", info.nar_size)?;
        let mut references = String::new();
        for path in &info.references {
            let separator = if references.is_empty() { "" } else { " " };
            write!(references, "{separator}{}", path.base_name())?;
        }
        writeln!(f, "References: {references}")?;
        if let Some(deriver) = &info.deriver {
            writeln!(f, "Deriver: {}", deriver.base_name())?;
        }
        let signatures: BTreeSet<_> = info.signatures.iter().collect();
        for signature in signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        if let Some(address) = &info.content_address {
            writeln!(f, "CA: {address}")?;
        }
        Ok(())
    }
}
