//! One number for a whole image, to be printed by the guest and computed by the host.

/// A hash of whole sectors, taken piece by piece. Against accidents, not against anyone.
#[derive(Clone, Debug)]
pub struct ImageHash(u64);

impl Default for ImageHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl ImageHash {
    /// Takes in more bytes: a multiple of eight, whatever is left over is not seen.
    pub fn update(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        for word in words {
            self.update_word(u64::from_le_bytes(*word));
        }
    }

    /// Takes in one word: FNV-1a by words, with a shift that brings high bits down.
    pub fn update_word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    /// The hash of all that was taken in.
    pub fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of an image.
pub fn image_hash(image: &[u8]) -> u64 {
    let mut hash = ImageHash::default();
    hash.update(image);
    hash.finish()
}
