//! Types that Rust writes and shaders read, and how they lie in memory (WGSL
//! specification, 14.4.1 "Host-shareable Types"), so that a test can compare the two.

/// How a type lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    U32,
    F32,
    /// Elements without gaps; WGSL's vectors are arrays here.
    Array(&'static Layout, usize),
    Struct(&'static [Member]),
}

/// A member of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Member {
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    pub layout: Layout,
}

/// A type that shaders read as it lies in memory.
pub trait HostShareable: bytemuck::Pod {
    const LAYOUT: Layout;
}

impl HostShareable for u32 {
    const LAYOUT: Layout = Layout::U32;
}

impl HostShareable for f32 {
    const LAYOUT: Layout = Layout::F32;
}

impl<T: HostShareable, const N: usize> HostShareable for [T; N]
where
    [T; N]: bytemuck::Pod,
{
    const LAYOUT: Layout = Layout::Array(&T::LAYOUT, N);
}

/// Defines a `#[repr(C)]` struct that is [`HostShareable`]; its members are those of the
/// WGSL struct, in their order and under their names.
macro_rules! host_shareable {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$member_meta:meta])* $member:ident: $kind:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$member_meta])* pub $member: $kind,)*
        }

        impl $crate::gpu::HostShareable for $name {
            const LAYOUT: $crate::gpu::Layout = $crate::gpu::Layout::Struct(&[
                $($crate::gpu::Member {
                    name: stringify!($member),
                    offset: std::mem::offset_of!($name, $member),
                    layout: <$kind as $crate::gpu::HostShareable>::LAYOUT,
                },)*
            ]);
        }
    };
}

pub(crate) use host_shareable;
