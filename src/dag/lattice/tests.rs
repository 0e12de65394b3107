use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The vectors of MSC4500, "Test vectors".
#[test]
fn the_vectors_of_the_proposal() {
    let alice = "@alice:example.com";
    let empty = "200823e5158b3774c11b5c61850ada762f8264144a9bebec3ebac5a2adde67b8";
    let mut lattice = Lattice::empty();
    let mut check = |prefix: &str, digest: &str, change: &dyn Fn(&mut Lattice)| {
        change(&mut lattice);
        assert_eq!(hex(&lattice.to_bytes()[..16]), prefix);
        assert_eq!(lattice.digest().to_string(), digest);
    };
    let zeros = "0".repeat(32);
    check(&zeros, empty, &|_| ());
    let one = "3bcd9f595b4b5c7095b300ec5cf37ff1ff3f79400643f7ba66171e150ddb6606";
    let one_prefix = "d72df88a72ff61da6b2287649ff6001c";
    check(one_prefix, one, &|l| {
        l.add("m.room.member", alice, "$event_1")
    });
    check(&zeros, empty, &|l| {
        l.remove("m.room.member", alice, "$event_1")
    });
    check(one_prefix, one, &|l| {
        l.add("m.room.member", alice, "$event_1")
    });
    check(
        "63cb41224c614368e98d0a8afef5066a",
        "99d3ed0ae604d2fb5849f7280062e27ecea4425b64b25190e067e3d6a755680c",
        &|l| l.add("m.room.name", "", "$event_2"),
    );
    check(
        "296ff8b7c050f4ec0c0419bdf2b7cc9e",
        "8b611750bb056a38f9e3f9fcc74ae1f0771f12ade0daecc6963e302d15f8e67f",
        &|l| {
            l.remove("m.room.member", alice, "$event_1");
            l.add("m.room.member", alice, "$event_3");
        },
    );
}

#[test]
fn fields_do_not_run_into_each_other() {
    let digest = |kind, key, id| {
        let mut lattice = Lattice::empty();
        lattice.add(kind, key, id);
        lattice.digest()
    };
    assert_ne!(digest("ab", "c", "$d"), digest("a", "bc", "$d"));
    assert_ne!(digest("a", "b", "c$d"), digest("a", "bc", "$d"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn order_does_not_matter(
        elements in proptest::collection::vec(("[a-z.]{0,8}", "[@a-z:]{0,8}", "\\$[a-z]{1,8}"), 1..12),
        seed in any::<u64>(),
    ) {
        let mut shuffled = elements.clone();
        shuffled.sort_by_key(|(a, b, c)| {
            (a.len() as u64 * 31 + b.len() as u64 * 17 + c.len() as u64).wrapping_mul(seed | 1)
        });
        let sum = |elements: &[(String, String, String)]| {
            let mut lattice = Lattice::empty();
            elements.iter().for_each(|(kind, key, id)| lattice.add(kind, key, id));
            lattice
        };
        let all = sum(&elements);
        prop_assert_eq!(all.digest(), sum(&shuffled).digest());
        let (first, rest) = elements.split_first().unwrap();
        let mut without = all.clone();
        without.remove(&first.0, &first.1, &first.2);
        prop_assert!(without == sum(rest));
        prop_assert!(Lattice::from_bytes(&all.to_bytes()) == Some(all));
    }
}

#[test]
fn a_lattice_of_the_wrong_size_is_none() {
    assert!(Lattice::from_bytes(&[0; 2047]).is_none());
    assert!(Lattice::from_bytes(&[]).is_none());
}
