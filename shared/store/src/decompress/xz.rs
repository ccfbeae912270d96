//! xz: the decoder itself says, before it allocates anything, when a block needs more memory.

use std::io::{self, BufRead, Read};

use liblzma::stream::{Action, CONCATENATED, Error, IGNORE_CHECK, Status, Stream};

use super::memory::{DecoderMemory, LEAST, MOST, Share, too_large};

/// What a decoder takes beside its dictionary.
const BESIDE: u64 = 1024 * 1024;

/// Decodes streams, one after the other.
pub(super) struct XzReader<R> {
    input: R,
    stream: Stream,
    share: Share,
    /// Size of the largest dictionary that fits into the share.
    dictionary: u64,
    ended: bool,
}

impl<R: BufRead> XzReader<R> {
    pub(super) fn new(input: R, memory: &DecoderMemory) -> io::Result<Self> {
        // Every byte that comes out is hashed with SHA-256; the file's own checksum would say less
        // and take a tenth of the time.
        let flags = CONCATENATED | IGNORE_CHECK;
        let stream = Stream::new_stream_decoder(LEAST + BESIDE, flags)?;
        let share = memory.share(LEAST)?;
        Ok(Self { input, stream, share, dictionary: LEAST, ended: false })
    }

    /// Takes as much memory as the next block needs. Blocks until there is as much.
    fn grow(&mut self) -> io::Result<()> {
        while self.dictionary < MOST {
            self.dictionary *= 2;
            // Refused as long as it is still too little.
            if self.stream.set_memlimit(self.dictionary + BESIDE).is_ok() {
                return self.share.resize(self.dictionary);
            }
        }
        Err(too_large(format!("more than {}", shared::human::size(MOST))))
    }
}

impl<R: BufRead> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while !self.ended {
            let available = self.input.fill_buf()?;
            let ends = available.is_empty();
            let (read, written) = (self.stream.total_in(), self.stream.total_out());
            let action = if ends { Action::Finish } else { Action::Run };
            let result = self.stream.process(available, buffer, action);
            let count = |after: u64, before: u64| usize::try_from(after - before);
            let read = count(self.stream.total_in(), read).map_err(io::Error::other)?;
            let written = count(self.stream.total_out(), written).map_err(io::Error::other)?;
            self.input.consume(read);
            match result {
                Ok(status) => self.ended = status == Status::StreamEnd,
                Err(Error::MemLimit) => self.grow()?,
                Err(error) => return Err(error.into()),
            }
            if written > 0 {
                return Ok(written);
            }
            if ends && !self.ended && result.is_ok() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete stream"));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use liblzma::stream::{Check, Filters, LzmaOptions};

    use super::*;

    /// One stream with a dictionary of so many bytes.
    fn encode(dictionary: u32, bytes: &[u8]) -> Vec<u8> {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_stream_with_a_larger_dictionary_gets_more_memory() {
        let mut bytes = encode(1 << 20, b"one");
        let memory = DecoderMemory::new(MOST);
        let mut decoded = Vec::new();
        let mut reader = XzReader::new(&*bytes, &memory).unwrap();
        reader.read_to_end(&mut decoded).unwrap();
        assert_eq!((&*decoded, reader.dictionary), (&b"one"[..], LEAST));
        drop(reader);
        bytes.extend(encode(64 << 20, b"two"));
        decoded.clear();
        let mut reader = XzReader::new(&*bytes, &memory).unwrap();
        reader.read_to_end(&mut decoded).unwrap();
        assert_eq!((&*decoded, reader.dictionary), (&b"onetwo"[..], 64 << 20));
    }

    #[test]
    fn the_library_is_one_that_decodes_fast() {
        // 5.6 made the decoder much faster, and brought the filter for RISC-V.
        let mut filters = Filters::new();
        filters.riscv().lzma2(&LzmaOptions::new_preset(0).unwrap());
        assert!(Stream::new_stream_encoder(&filters, Check::Crc32).is_ok(), "before liblzma 5.6");
    }
}
