//! One test body, run with several runtimes and versions of containerd, each as a test of its own.

/// Makes tests of functions that take a `&mut Node`: `everywhere` with Coffer on each containerd, `on_both_ends` with Coffer on the
/// oldest and the newest. Each also runs with runc on the newest, which shows that it can pass.
///
/// `coffer_only` and `coffer_everywhere` are for what runc does not do, or what has no meaning without a virtual machine.
#[macro_export]
macro_rules! pod_tests {
    ($($kind:ident $name:ident;)*) => {
        $(mod $name { $crate::pod_tests!(@$kind $name); })*
    };
    (@everywhere $name:ident) => {
        $crate::pod_tests!(@one $name runc_on_2 V2 Runc);
        $crate::pod_tests!(@one $name coffer_on_1_6 V1_6 Coffer);
        $crate::pod_tests!(@one $name coffer_on_1_7 V1_7 Coffer);
        $crate::pod_tests!(@one $name coffer_on_2 V2 Coffer);
    };
    (@on_both_ends $name:ident) => {
        $crate::pod_tests!(@one $name runc_on_2 V2 Runc);
        $crate::pod_tests!(@one $name coffer_on_1_6 V1_6 Coffer);
        $crate::pod_tests!(@one $name coffer_on_2 V2 Coffer);
    };
    (@once $name:ident) => {
        $crate::pod_tests!(@one $name runc_on_2 V2 Runc);
        $crate::pod_tests!(@one $name coffer_on_2 V2 Coffer);
    };
    (@coffer_only $name:ident) => {
        $crate::pod_tests!(@one $name coffer_on_2 V2 Coffer);
    };
    (@coffer_everywhere $name:ident) => {
        $crate::pod_tests!(@one $name coffer_on_1_6 V1_6 Coffer);
        $crate::pod_tests!(@one $name coffer_on_1_7 V1_7 Coffer);
        $crate::pod_tests!(@one $name coffer_on_2 V2 Coffer);
    };
    (@one $name:ident $test:ident $version:ident $runtime:ident) => {
        #[test]
        fn $test() -> ::core::result::Result<(), $crate::node::Failure> {
            let (version, runtime) = ($crate::containerd::Version::$version, $crate::containerd::Runtime::$runtime);
            $crate::node::with_node(version, runtime, super::$name)
        }
    };
}
