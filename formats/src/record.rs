//! Records: structs whose fields are on disk one after the other, in declaration order.
//!
//! [`record!`] declares a struct and its encoding in one place, so that the two cannot diverge.
//! Each field type implements [`Field`]; a type with fewer legal values than bit patterns
//! refuses the others in its own `read`.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Digest;
use crate::codec::{DecodeError, Put, Reader};

/// A value with one encoding.
pub(crate) trait Field: Sized {
    /// The least size of a value in bytes, which bounds the allocation for a count.
    const MIN_SIZE: usize;

    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads the value. Errors show `name`.
    ///
    /// # Errors
    /// The input is truncated, or the type does not allow its value.
    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads as many values as there are `items`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    fn read_all(
        name: &'static str,
        reader: &mut Reader<'_>,
        items: &mut [Self],
    ) -> Result<(), DecodeError> {
        for item in items {
            *item = Self::read(name, reader)?;
        }
        Ok(())
    }
}

impl Field for u8 {
    const MIN_SIZE: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u8(*self);
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.u8(name)
    }

    /// In one piece: a processor's state has kilobytes of them, and is read at each start.
    fn read_all(
        name: &'static str,
        reader: &mut Reader<'_>,
        items: &mut [Self],
    ) -> Result<(), DecodeError> {
        items.copy_from_slice(reader.bytes(name, items.len())?);
        Ok(())
    }
}

macro_rules! integer_field {
    ($($type:ident $put:ident),*) => {$(
        impl Field for $type {
            const MIN_SIZE: usize = size_of::<$type>();

            fn put(&self, out: &mut Vec<u8>) {
                out.$put(*self);
            }

            fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                reader.$type(name)
            }
        }
    )*};
}

integer_field!(u16 put_u16, u32 put_u32, u64 put_u64);

impl Field for bool {
    const MIN_SIZE: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_bool(*self);
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.bool(name)
    }
}

impl Field for Digest {
    const MIN_SIZE: usize = 32;

    fn put(&self, out: &mut Vec<u8>) {
        Put::put(out, &self.0);
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(reader.array(name)?))
    }
}

impl Field for String {
    const MIN_SIZE: usize = 4;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_byte_string(self.as_bytes());
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.string(name, reader.remaining())
    }
}

impl<T: Field> Field for Option<T> {
    const MIN_SIZE: usize = 1;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_option(self.as_ref(), |out, value| value.put(out));
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.option(name, |r| T::read(name, r))
    }
}

impl<T: Field> Field for Vec<T> {
    const MIN_SIZE: usize = 4;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_list(self, |out, item| item.put(out));
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // An item has at least one byte, so the input's length bounds the count.
        let limit = reader.remaining();
        reader.list(name, limit, T::MIN_SIZE, |r| T::read(name, r))
    }
}

impl<T: Field + Copy + Default, const N: usize> Field for [T; N] {
    const MIN_SIZE: usize = N * T::MIN_SIZE;

    fn put(&self, out: &mut Vec<u8>) {
        for item in self {
            item.put(out);
        }
    }

    fn read(name: &'static str, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut items = [T::default(); N];
        T::read_all(name, reader, &mut items)?;
        Ok(items)
    }
}

/// Declares structs with public fields and their encoding, field after field.
macro_rules! record {
    ($(
        $(#[$attribute:meta])*
        pub struct $name:ident {
            $($(#[$field_attribute:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_attribute])* pub $field: $type,)*
        }

        impl $crate::record::Field for $name {
            const MIN_SIZE: usize = 0 $(+ <$type as $crate::record::Field>::MIN_SIZE)*;

            fn put(&self, out: &mut alloc::vec::Vec<u8>) {
                $($crate::record::Field::put(&self.$field, out);)*
            }

            fn read(
                _: &'static str,
                reader: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self {
                    $($field: $crate::record::Field::read(stringify!($field), reader)?,)*
                })
            }
        }
    )*};
}

/// Declares an enum without data that is stored as one byte. `read` refuses other bytes.
macro_rules! byte_enum {
    ($(
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $value:literal,)*
        }
    )*) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_attribute])* $variant = $value,)*
        }

        impl $crate::record::Field for $name {
            const MIN_SIZE: usize = 1;

            fn put(&self, out: &mut alloc::vec::Vec<u8>) {
                $crate::codec::Put::put_u8(out, match self { $(Self::$variant => $value,)* });
            }

            fn read(
                name: &'static str,
                reader: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                match reader.u8(name)? {
                    $($value => Ok(Self::$variant),)*
                    value => Err(reader.illegal(name, value.into())),
                }
            }
        }
    )*};
}

pub(crate) use {byte_enum, record};
