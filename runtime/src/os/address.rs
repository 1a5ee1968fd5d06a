//! Internet addresses in the form that the system takes.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address with its port. Both forms begin with the family.
#[repr(C)]
pub(super) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub(super) fn empty() -> Self {
        // SAFETY: zeros are valid in every field of both forms.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// An address, and the length of its form.
    pub(super) fn of(address: SocketAddr) -> (Self, libc::socklen_t) {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(address) => {
                name.v4.sin_family = libc::AF_INET as libc::sa_family_t;
                name.v4.sin_port = address.port().to_be();
                name.v4.sin_addr = v4_form(*address.ip());
                (name, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(address) => {
                name.v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                name.v6.sin6_port = address.port().to_be();
                name.v6.sin6_flowinfo = address.flowinfo();
                name.v6.sin6_addr = libc::in6_addr { s6_addr: address.ip().octets() };
                name.v6.sin6_scope_id = address.scope_id();
                (name, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        // SAFETY: both forms begin with the family, and every byte is initialized.
        let v4 = unsafe { self.v4 };
        match c_int::from(v4.sin_family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: every byte is initialized.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

pub(super) fn v4_form(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}
