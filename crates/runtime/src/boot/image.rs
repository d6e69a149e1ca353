//! Recognises a kernel file and unpacks what is packed inside a bzImage (Linux's `Documentation/arch/x86/boot.rst`).

use std::borrow::Cow;
use std::io::Read;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::BootError;

/// Offset of the setup header in a bzImage.
const HEADER: usize = 0x1f1;
pub(super) const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// Protocol 2.12: the first with `xloadflags`.
const OLDEST: u16 = 0x020c;
/// `xloadflags`: the 64-bit entry point is there.
const HAS_64_BIT_ENTRY: u16 = 1;
const SECTOR: usize = 512;
/// Sectors of setup code where the header says 0.
const DEFAULT_SETUP: u8 = 4;
/// No kernel unpacks to more than this.
const MOST: u64 = 1 << 30;

/// A kernel that can be loaded.
#[derive(Debug)]
pub(super) enum Image<'a> {
    /// An ELF file.
    Elf(Cow<'a, [u8]>),
    /// A bzImage that unpacks itself, because its packing is not one of those known here.
    BzImage(BzImage<'a>),
}

/// The parts of a bzImage that are loaded.
#[derive(Debug)]
pub(super) struct BzImage<'a> {
    pub(super) header: setup_header,
    /// The protected-mode kernel: what is loaded at the kernel's address.
    pub(super) kernel: &'a [u8],
}

fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// Says what a kernel file is, and unpacks it.
pub(super) fn read(file: &[u8]) -> Result<Image<'_>, BootError> {
    if is_elf(file) {
        return Ok(Image::Elf(Cow::Borrowed(file)));
    }
    let image = bz_image(file)?;
    let start = image.header.payload_offset as usize;
    let payload = start
        .checked_add(image.header.payload_length as usize)
        .and_then(|end| image.kernel.get(start..end))
        .ok_or_else(|| BootError::BzImage("the packed kernel is not inside the file".into()))?;
    let Some(elf) = unpack(payload)? else { return Ok(Image::BzImage(image)) };
    if !is_elf(&elf) {
        return Err(BootError::BzImage("what it holds is not an ELF file".into()));
    }
    Ok(Image::Elf(Cow::Owned(elf)))
}

fn bz_image(file: &[u8]) -> Result<BzImage<'_>, BootError> {
    let mut header = setup_header::default();
    let bytes = file.get(HEADER..HEADER + size_of::<setup_header>()).ok_or(BootError::Unknown)?;
    header.as_mut_slice().copy_from_slice(bytes);
    if header.header != HEADER_MAGIC || header.boot_flag != BOOT_FLAG {
        return Err(BootError::Unknown);
    }
    let (version, flags) = (header.version, header.xloadflags);
    if version < OLDEST || flags & HAS_64_BIT_ENTRY == 0 {
        return Err(BootError::BzImage(format!(
            "it has no 64-bit entry point (boot protocol {}.{:02})",
            version >> 8,
            version & 0xff
        )));
    }
    let setup = if header.setup_sects == 0 { DEFAULT_SETUP } else { header.setup_sects };
    let kernel = file
        .get((usize::from(setup) + 1) * SECTOR..)
        .ok_or_else(|| BootError::BzImage("the file is cut short".into()))?;
    Ok(BzImage { header, kernel })
}

/// Unpacks a kernel by its magic number; `None` if it is of no known kind.
fn unpack(packed: &[u8]) -> Result<Option<Vec<u8>>, BootError> {
    // But for gzip, the build puts four bytes with the unpacked size behind the stream.
    let without_size = &packed[..packed.len().saturating_sub(4)];
    let unpacked = match packed {
        [0x1f, 0x8b, ..] => ("gzip", drain(flate2::read::GzDecoder::new(packed))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            ("xz", drain(lzma_rust2::XzReader::new(without_size, false)))
        }
        [0x5d, 0, 0, ..] => {
            let reader = lzma_rust2::LzmaReader::new_mem_limit(without_size, (MOST >> 10) as u32, None);
            ("lzma", reader.map_err(|error| error.to_string()).and_then(drain))
        }
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", drain(lz4_flex::frame::FrameDecoder::new(without_size))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let reader = ruzstd::decoding::StreamingDecoder::new(without_size);
            ("zstd", reader.map_err(|error| error.to_string()).and_then(drain))
        }
        _ => return Ok(None),
    };
    let (format, result) = unpacked;
    result.map(Some).map_err(|reason| BootError::Unpack { format, reason })
}

fn drain(reader: impl Read) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    reader.take(MOST + 1).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
    if unpacked.len() as u64 > MOST {
        return Err("it is larger than 1 GiB".into());
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ELF: &[u8] = b"\x7fELF, and some more bytes that repeat, that repeat, that repeat, that repeat";

    /// A bzImage around a packed kernel.
    fn bz(packed: &[u8]) -> Vec<u8> {
        let header = setup_header {
            setup_sects: 1,
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: 0x020f,
            xloadflags: HAS_64_BIT_ENTRY,
            payload_offset: 0x40,
            payload_length: packed.len() as u32,
            ..Default::default()
        };
        let mut file = vec![0; 2 * SECTOR + 0x40];
        file[HEADER..HEADER + size_of::<setup_header>()].copy_from_slice(header.as_slice());
        file.extend_from_slice(packed);
        file.extend_from_slice(&[0; 64]);
        file
    }

    fn with_size(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend_from_slice(&(ELF.len() as u32).to_le_bytes());
        packed
    }

    #[track_caller]
    fn unpacks(packed: Vec<u8>) {
        let file = bz(&packed);
        let Ok(Image::Elf(elf)) = read(&file) else { panic!("{:?}", read(&file)) };
        assert_eq!(&*elf, ELF);
    }

    #[test]
    fn elf_files_are_taken_as_they_are() {
        assert!(matches!(read(ELF), Ok(Image::Elf(Cow::Borrowed(ELF)))));
    }

    #[test]
    fn gzip() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(ELF).unwrap();
        unpacks(encoder.finish().unwrap());
    }

    #[test]
    fn xz_and_lzma() {
        // `xz --check=crc32 --x86 --lzma2` and `xz --format=lzma` of ELF, as Linux's build packs.
        unpacks(with_size(include_bytes!("image/kernel.xz").to_vec()));
        unpacks(with_size(include_bytes!("image/kernel.lzma").to_vec()));
    }

    #[test]
    fn lz4_of_the_legacy_kind() {
        let block = lz4_flex::block::compress(ELF);
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        packed.extend_from_slice(&(block.len() as u32).to_le_bytes());
        packed.extend_from_slice(&block);
        unpacks(with_size(packed));
    }

    #[test]
    fn zstd() {
        let packed = ruzstd::encoding::compress_to_vec(ELF, ruzstd::encoding::CompressionLevel::Fastest);
        unpacks(with_size(packed));
    }

    #[test]
    fn another_packing_is_left_to_the_kernel() {
        let file = bz(b"BZh91AY&SY and so on");
        assert!(matches!(read(&file), Ok(Image::BzImage(_))));
    }

    #[test]
    fn what_is_broken_is_refused() {
        assert!(matches!(read(b""), Err(BootError::Unknown)));
        assert!(matches!(read(&[0; 4096]), Err(BootError::Unknown)));
        let mut cut = bz(&with_size(include_bytes!("image/kernel.xz").to_vec()));
        cut[2 * SECTOR + 0x40 + 20] ^= 0xff;
        assert!(matches!(read(&cut), Err(BootError::Unpack { format: "xz", .. })));
        let short = &bz(&[0; 200])[..2 * SECTOR + 0x50];
        assert!(matches!(read(short), Err(BootError::BzImage(_))));
        let mut old = bz(b"");
        old[HEADER + 0x15] = 0;
        assert!(matches!(read(&old), Err(BootError::BzImage(_))));
    }
}
