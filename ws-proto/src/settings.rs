//! Settings of a configuration: for each what it is, and a way to set it.

/// Makes a method that returns each of the fields, and one that sets it.
macro_rules! settings {
    ($of:ident; $($(#[$doc:meta])* $name:ident, $with:ident: $type:ty;)*) => {
        impl $of {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> $type {
                    self.$name
                }

                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $with(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

pub(crate) use settings;
