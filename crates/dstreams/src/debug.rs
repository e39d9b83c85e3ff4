//! `Debug` of types whose fields say nothing to a reader, or must not be printed: records, secrets.

/// Implements `Debug` for a type as its name, and some of its fields: `debug_as!([K, V] Keyed<K, V> { node })`.
macro_rules! debug_as {
    ($([$($params:tt)*])? $name:ident $(<$($args:tt),*>)? $({ $($field:ident),* })?) => {
        impl $(<$($params)*>)? std::fmt::Debug for $name $(<$($args),*>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut shown = f.debug_struct(stringify!($name));
                $($(shown.field(stringify!($field), &self.$field);)*)?
                shown.finish_non_exhaustive()
            }
        }
    };
}
pub(crate) use debug_as;
