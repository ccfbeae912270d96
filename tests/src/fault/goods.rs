//! A small binary cache in memory, with a closure made for breaking.

use std::{collections::BTreeMap, io::Write as _};

use shared::nix::{
    NarInfo, PathInfo, SecretKey, Sha256, StorePath,
    nar::{Node, Visit as _, Writer},
    narinfo::Compression,
};

use super::{Answer, Ask};

/// Files of a cache by their paths, and what they are of.
#[derive(Debug, Clone)]
pub struct Goods {
    files: BTreeMap<String, Vec<u8>>,
    infos: BTreeMap<String, NarInfo>,
    key: SecretKey,
    root: Option<StorePath>,
}

impl Default for Goods {
    fn default() -> Self {
        Self::new()
    }
}

impl Goods {
    /// Makes an empty cache, with a key that signs all that will be in it.
    #[must_use]
    pub fn new() -> Self {
        let info = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n".to_vec();
        Self {
            files: [("nix-cache-info".to_owned(), info)].into(),
            infos: BTreeMap::new(),
            key: SecretKey::from_seed("fault.test-1", &[7; 32]).expect("a good name"),
            root: None,
        }
    }

    /// Makes the cache of the stories: `root` needs `big`, of some 200 KiB, and `small`.
    #[must_use]
    pub fn closure(compression: Compression) -> Self {
        let mut goods = Self::new();
        let big = goods.add_file("big", &noise(200 * 1024), compression, &[]);
        let small = goods.add_file("small", b"a few words\n", Compression::Xz, &[]);
        let text = format!("{big}\n{small}\n");
        goods.add_file("root", text.as_bytes(), Compression::Zstd, &[&big, &small]);
        goods
    }

    /// Adds a path that is one file; what is added last is the root.
    pub fn add_file(
        &mut self,
        name: &str,
        contents: &[u8],
        compression: Compression,
        references: &[&StorePath],
    ) -> StorePath {
        let mut writer = Writer::new(Vec::new());
        let node = Node::Regular { executable: false, size: contents.len() as u64 };
        writer.enter(b"", &node).unwrap();
        writer.contents(contents).unwrap();
        writer.leave().unwrap();
        self.add_nar(name, &writer.finish().unwrap(), compression, references)
    }

    /// Adds a path with whatever these bytes are as its archive, and signs that.
    pub fn add_nar(
        &mut self,
        name: &str,
        nar: &[u8],
        compression: Compression,
        references: &[&StorePath],
    ) -> StorePath {
        let digest = Sha256::of(format!("what {name} is made of").as_bytes());
        let path = StorePath::from_digest(&digest, name).expect("a good name");
        let mut info = PathInfo {
            path: path.clone(),
            nar_hash: Sha256::of(nar),
            nar_size: nar.len() as u64,
            references: references.iter().map(|path| (*path).clone()).collect(),
            deriver: None,
            signatures: Vec::new(),
            content_address: None,
        };
        info.sign(&self.key);
        self.put(info, nar, compression);
        path
    }

    /// Puts a path and its archive there, signed or not.
    pub fn put(&mut self, info: PathInfo, nar: &[u8], compression: Compression) {
        let file = compress(compression, nar);
        let hash = Sha256::of(&file);
        let extension = compression.extension();
        let narinfo = NarInfo {
            url: format!("nar/{}.nar{extension}", hash.to_base32()),
            compression,
            file_hash: Some(hash.into()),
            file_size: Some(file.len() as u64),
            info,
        };
        self.root = Some(narinfo.info.path.clone());
        self.files.insert(narinfo.url.clone(), file);
        self.files.insert(narinfo_file(&narinfo.info.path), narinfo.to_string().into_bytes());
        self.infos.insert(narinfo.info.path.name().to_owned(), narinfo);
    }

    /// Returns the path that was added last.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn root(&self) -> &StorePath {
        self.root.as_ref().expect("something was added")
    }

    /// Returns what is said of the path of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn narinfo(&self, name: &str) -> &NarInfo {
        self.infos.get(name).unwrap_or_else(|| panic!("there is no `{name}`"))
    }

    /// Returns what is said of each path.
    pub fn narinfos(&self) -> impl Iterator<Item = &NarInfo> {
        self.infos.values()
    }

    /// Returns the file of the narinfo of this name, as requests name it.
    #[must_use]
    pub fn narinfo_file(&self, name: &str) -> String {
        narinfo_file(&self.narinfo(name).info.path)
    }

    /// Returns the compressed archive of this name.
    #[must_use]
    pub fn nar(&self, name: &str) -> &[u8] {
        self.files.get(&self.narinfo(name).url).map_or(&[], Vec::as_slice)
    }

    /// Returns the key that signs everything.
    #[must_use]
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Answers as a decent server does.
    #[must_use]
    pub fn answer(&self, ask: &Ask<'_>) -> Answer {
        match self.files.get(ask.path()) {
            Some(body) => Answer::file(ask.request, &etag(body), body),
            None => Answer::whole(404, &[], b"not found\n"),
        }
    }
}

/// Returns the ETag of a file.
#[must_use]
pub(super) fn etag(body: &[u8]) -> String {
    format!("\"{}\"", Sha256::of(body).to_base32())
}

fn narinfo_file(path: &StorePath) -> String {
    format!("{}.narinfo", path.hash_part())
}

/// Compresses as a cache would.
///
/// # Panics
/// For a compression that no story needs.
#[must_use]
pub fn compress(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 3);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Brotli => {
            let mut output = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut output, 4096, 3, 22);
            encoder.write_all(bytes).unwrap();
            drop(encoder);
            output
        }
        Compression::Bzip2 | Compression::Lz4 => panic!("no story needs {}", compression.name()),
    }
}

/// Returns bytes that no compression makes smaller, the same each time.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
