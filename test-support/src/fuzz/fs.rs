//! Requests of a guest to a folder of the host as the server takes them apart; no guest is trusted.

use supermachine_fs::fuzzing::take_request;

/// Takes a request apart.
pub fn run(data: &[u8]) -> bool {
    take_request(data)
}

/// A request of each shape.
pub fn samples() -> Vec<Vec<u8>> {
    let name = &b"name\0"[..];
    let numbers = |count: usize| vec![1; 4 * count];
    let bodies: [(u32, Vec<u8>); 20] = [
        (1, name.to_vec()),
        (2, numbers(2)),
        (3, numbers(4)),
        (4, numbers(22)),
        (6, [name, name].concat()),
        (8, [&numbers(4), name].concat()),
        (9, [&numbers(2), name].concat()),
        (12, [&numbers(2), name, name].concat()),
        (13, [&numbers(2), name].concat()),
        (14, numbers(2)),
        (15, numbers(10)),
        (16, [&[0; 16][..], &4_u32.to_le_bytes(), &[0; 20], b"data"].concat()),
        (21, [&4_u32.to_le_bytes()[..], &[0; 4], name, b"data"].concat()),
        (22, [&numbers(2), name].concat()),
        (26, numbers(16)),
        (35, [&numbers(4), name].concat()),
        (42, [&1_u32.to_le_bytes()[..], &[0; 4], &numbers(4)].concat()),
        (43, numbers(8)),
        (45, [&numbers(4), name, name].concat()),
        (47, numbers(14)),
    ];
    let request = |(operation, body): (u32, Vec<u8>)| {
        let length = u32::try_from(40 + body.len()).unwrap_or(0);
        let head = [length.to_le_bytes(), operation.to_le_bytes()].concat();
        [&head[..], &[7; 32], &body].concat()
    };
    bodies.into_iter().map(request).collect()
}
