//! The tests of seven services, for any number of vCPUs.

use supermachine_test_support::machines::scaled;

/// Defines the test of each service, on this number of vCPUs.
macro_rules! answer_in_machines_of {
    ($vcpus:literal) => {
        $crate::services_smp::answer_in_machines_of! { $vcpus;
            nginx: nginx_answers_after_every_restore,
            httpd: httpd_answers_after_every_restore,
            redis: redis_answers_after_every_restore,
            memcached: memcached_answers_after_every_restore,
            python: python_answers_after_every_restore,
            node: node_answers_after_every_restore,
            postgres: postgres_answers_after_every_restore,
        }
    };
    ($vcpus:literal; $($service:ident: $test:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $crate::services::$service($vcpus, $crate::services_smp::restores());
            }
        )*
    };
}
pub(crate) use answer_in_machines_of;

/// The number of restores: 20 in a full run, otherwise 1.
pub(crate) fn restores() -> u32 {
    scaled(20, 1)
}
