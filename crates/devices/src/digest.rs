//! Flattens any serialisable state into named leaves, so that two states can be compared field by field.

use serde::ser::{self, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Every field of `state` in the order of its type, as (path, value). Numbers, flags and characters stand for themselves; strings
/// and runs of bytes are hashed (XXH3), with their length; a missing `Option` and an enum's variant are hashes of their
/// names; sequences have a leaf for their length, so that two states with equal leaves are equal but for collisions.
pub fn leaves(state: &impl Serialize) -> Vec<(String, u64)> {
    let mut flat = Flat { path: String::new(), leaves: Vec::new() };
    // The serialiser itself never fails; a `Serialize` that does shows as a leaf and so as a difference.
    if flat.put(state).is_err() {
        flat.leaf(xxh3_64(b"failed"));
    }
    flat.leaves
}

/// What a value turned out to be: bytes are left to whoever holds them, so that runs of them become one leaf.
enum Shape {
    Done,
    Byte(u8),
}

struct Flat {
    path: String,
    leaves: Vec<(String, u64)>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

impl ser::Error for Failed {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl Flat {
    fn leaf(&mut self, value: u64) {
        self.leaves.push((self.path.clone(), value));
    }

    fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        if let Shape::Byte(byte) = value.serialize(&mut *self)? {
            self.leaf(u64::from(byte));
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) -> usize {
        let depth = self.path.len();
        if depth > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        depth
    }

    fn at<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), Failed> {
        let depth = self.enter(name);
        let result = self.put(value);
        self.path.truncate(depth);
        result
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.at_len(bytes.len());
        self.leaf(xxh3_64(bytes));
    }

    fn at_len(&mut self, len: usize) {
        let depth = self.enter("len");
        self.leaf(len as u64);
        self.path.truncate(depth);
    }
}

/// A sequence, tuple, map or struct on its way; remembers how deep the path was.
struct Inner<'a> {
    flat: &'a mut Flat,
    depth: usize,
    index: usize,
    bytes: Vec<u8>,
    key: Option<String>,
    sized: bool,
}

impl<'a> Inner<'a> {
    fn new(flat: &'a mut Flat, depth: usize, sized: bool) -> Self {
        Self { flat, depth, index: 0, bytes: Vec::new(), key: None, sized }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        use std::fmt::Write;
        // In a sequence all elements are of one type, so bytes after a byte write no path: this is what makes megabytes of
        // them cheap. In a tuple anything may follow.
        let depth = self.flat.path.len();
        if self.bytes.is_empty() || !self.sized {
            let _ = write!(self.flat.path, "[{}]", self.index);
        }
        if let Shape::Byte(byte) = value.serialize(&mut *self.flat)? {
            self.bytes.push(byte);
        }
        self.flat.path.truncate(depth);
        self.index += 1;
        Ok(())
    }

    fn finish(self) -> Result<Shape, Failed> {
        if !self.bytes.is_empty() {
            self.flat.bytes(&self.bytes);
        } else if self.sized {
            self.flat.at_len(self.index);
        }
        self.flat.path.truncate(self.depth);
        Ok(Shape::Done)
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Shape, Failed> {
            self.leaf(value as u64);
            Ok(Shape::Done)
        })*
    };
}

impl<'a> ser::Serializer for &'a mut Flat {
    type Ok = Shape;
    type Error = Failed;
    type SerializeSeq = Inner<'a>;
    type SerializeTuple = Inner<'a>;
    type SerializeTupleStruct = Inner<'a>;
    type SerializeTupleVariant = Inner<'a>;
    type SerializeMap = Inner<'a>;
    type SerializeStruct = Inner<'a>;
    type SerializeStructVariant = Inner<'a>;

    numbers!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char
    );

    fn serialize_u8(self, value: u8) -> Result<Shape, Failed> {
        Ok(Shape::Byte(value))
    }

    fn serialize_i128(self, value: i128) -> Result<Shape, Failed> {
        self.serialize_u128(value as u128)
    }

    fn serialize_u128(self, value: u128) -> Result<Shape, Failed> {
        self.at("low", &(value as u64))?;
        self.at("high", &((value >> 64) as u64))?;
        Ok(Shape::Done)
    }

    fn serialize_f32(self, value: f32) -> Result<Shape, Failed> {
        self.serialize_u32(value.to_bits())
    }

    fn serialize_f64(self, value: f64) -> Result<Shape, Failed> {
        self.serialize_u64(value.to_bits())
    }

    fn serialize_str(self, value: &str) -> Result<Shape, Failed> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Shape, Failed> {
        self.bytes(value);
        Ok(Shape::Done)
    }

    fn serialize_none(self) -> Result<Shape, Failed> {
        self.leaf(xxh3_64(b"none"));
        Ok(Shape::Done)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Shape, Failed> {
        self.put(value).map(|()| Shape::Done)
    }

    fn serialize_unit(self) -> Result<Shape, Failed> {
        self.leaf(0);
        Ok(Shape::Done)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Shape, Failed> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Shape, Failed> {
        self.leaf(xxh3_64(variant.as_bytes()));
        Ok(Shape::Done)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Shape, Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Shape, Failed> {
        self.leaf(xxh3_64(variant.as_bytes()));
        self.at(variant, value).map(|()| Shape::Done)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Inner<'a>, Failed> {
        let depth = self.path.len();
        Ok(Inner::new(self, depth, true))
    }

    fn serialize_tuple(self, _len: usize) -> Result<Inner<'a>, Failed> {
        let depth = self.path.len();
        Ok(Inner::new(self, depth, false))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Inner<'a>, Failed> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Inner<'a>, Failed> {
        self.leaf(xxh3_64(variant.as_bytes()));
        let depth = self.enter(variant);
        Ok(Inner::new(self, depth, false))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Inner<'a>, Failed> {
        let depth = self.path.len();
        Ok(Inner::new(self, depth, true))
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Inner<'a>, Failed> {
        self.serialize_tuple(len)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Inner<'a>, Failed> {
        self.serialize_tuple_variant(name, index, variant, len)
    }
}

macro_rules! elements {
    ($($trait:ident, $method:ident;)*) => {
        $(impl ser::$trait for Inner<'_> {
            type Ok = Shape;
            type Error = Failed;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
                self.element(value)
            }

            fn end(self) -> Result<Shape, Failed> {
                self.finish()
            }
        })*
    };
}

elements! {
    SerializeSeq, serialize_element;
    SerializeTuple, serialize_element;
    SerializeTupleStruct, serialize_field;
    SerializeTupleVariant, serialize_field;
}

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Inner<'_> {
            type Ok = Shape;
            type Error = Failed;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Failed> {
                self.flat.at(key, value)
            }

            fn end(self) -> Result<Shape, Failed> {
                self.finish()
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Inner<'_> {
    type Ok = Shape;
    type Error = Failed;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Failed> {
        // Keys are named by their own leaves: a number by its value, anything else by hashes.
        let values: Vec<_> = leaves_of(key)?.into_iter().map(|(_, value)| value.to_string()).collect();
        self.key = Some(format!("{{{}}}", values.join(",")));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failed> {
        let key = self.key.take().unwrap_or_default();
        self.index += 1;
        self.flat.at(&key, value)
    }

    fn end(self) -> Result<Shape, Failed> {
        self.finish()
    }
}

fn leaves_of<T: Serialize + ?Sized>(value: &T) -> Result<Vec<(String, u64)>, Failed> {
    let mut flat = Flat { path: String::new(), leaves: Vec::new() };
    flat.put(value)?;
    Ok(flat.leaves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use std::collections::BTreeMap;

    #[derive(Serialize, Clone)]
    enum Kind {
        Plain,
        Tuple(u8, u32),
        Named { value: Option<u8> },
        Wrapped(Vec<u8>),
    }

    #[derive(Serialize, Clone)]
    struct Inside {
        flag: bool,
        kinds: Vec<Kind>,
    }

    #[derive(Serialize, Clone)]
    struct Outside {
        number: u64,
        small: u8,
        bytes: Vec<u8>,
        registers: [u32; 2],
        inside: Inside,
        map: BTreeMap<u16, i32>,
        wide: u128,
        mixed: (u8, u64, u8),
    }

    fn sample() -> Outside {
        Outside {
            number: 7,
            small: 8,
            bytes: vec![1, 2, 3],
            registers: [4, 5],
            inside: Inside {
                flag: true,
                kinds: vec![
                    Kind::Plain,
                    Kind::Tuple(1, 2),
                    Kind::Named { value: None },
                    Kind::Wrapped(vec![9]),
                ],
            },
            map: [(3, -1)].into(),
            wide: 1 << 64,
            mixed: (1, 2, 3),
        }
    }

    #[test]
    fn every_field_has_its_path() {
        let leaves = leaves(&sample());
        let value = |path: &str| leaves.iter().find(|(name, _)| name == path).map(|(_, value)| *value);
        assert_eq!(value("number"), Some(7));
        assert_eq!(value("small"), Some(8));
        assert_eq!(value("bytes.len"), Some(3));
        assert_eq!(value("bytes"), Some(xxh3_64(&[1, 2, 3])));
        assert_eq!(value("registers[1]"), Some(5));
        assert_eq!(value("inside.flag"), Some(1));
        assert_eq!(value("inside.kinds.len"), Some(4));
        assert_eq!(value("inside.kinds[0]"), Some(xxh3_64(b"Plain")));
        assert_eq!(value("inside.kinds[1].Tuple[1]"), Some(2));
        assert_eq!(value("inside.kinds[2].Named.value"), Some(xxh3_64(b"none")));
        assert_eq!(value("inside.kinds[3].Wrapped"), Some(xxh3_64(&[9])));
        assert_eq!(value("map.{3}"), Some(-1_i32 as u64));
        assert_eq!((value("wide.low"), value("wide.high")), (Some(0), Some(1)));
        assert_eq!(value("mixed[1]"), Some(2));
    }

    #[test]
    fn a_change_anywhere_changes_the_leaves() {
        let base = leaves(&sample());
        let changes: [fn(&mut Outside); 8] = [
            |state| state.number += 1,
            |state| state.small = 0,
            |state| state.bytes[2] = 4,
            |state| state.bytes.push(0),
            |state| state.inside.kinds.truncate(1),
            |state| state.inside.kinds[2] = Kind::Named { value: Some(0) },
            |state| state.mixed.2 = 4,
            |state| state.inside.kinds.push(Kind::Wrapped(Vec::new())),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut changed = sample();
            change(&mut changed);
            assert_ne!(leaves(&changed), base, "change {index}");
        }
    }
}
