package main

// figures are all that can be measured, in the order of the table.
func figures() []figure {
	var all []figure
	for _, d := range []direction{tx, rx} {
		for _, size := range sizes {
			all = append(all, d.throughput(flow{1, size}))
		}
		for _, n := range []int{16, 256} {
			all = append(all, d.throughput(flow{n, 64 * kib}))
		}
	}
	return append(all,
		tx.bigRings(flow{1, 64 * kib}), rx.bigRings(flow{1, 64 * kib}),
		manyActive(1000),
		roundTrip(1), roundTrip(4*kib),
		guestConnects(), hostConnects(),
		idle(10_000), atRest(), tx.allocations(), rx.allocations(),
		neighbours(), fair(8),
	)
}
