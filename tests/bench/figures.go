package main

// scale is how many connections and machines the larger figures have.
type scale struct{ several, many, active, idle, machines int }

// full is the scale of what is published.
var full = scale{several: 16, many: 256, active: 1000, idle: 10_000, machines: 8}

// figures are all that can be measured, in the order of the table.
func figures(s scale) []figure {
	var all []figure
	for _, d := range []direction{tx, rx} {
		for _, size := range sizes {
			all = append(all, d.throughput(flow{1, size}))
		}
		all = append(all,
			d.throughput(flow{s.several, 64 * kib}),
			d.throughput(flow{s.many, 64 * kib}),
			d.bigRings(flow{1, 64 * kib}),
		)
	}
	return append(all,
		manyActive(s.active, s.several),
		roundTrip(1, ""), roundTrip(4*kib, ""), sleepingRoundTrip(1), polledRoundTrip(1),
		byGuest.connects(1), byGuest.connects(s.several), byHost.connects(1), byHost.connects(s.several),
		idle(s.idle), atRest(), tx.allocations(), rx.allocations(),
		neighbours(), fair(s.machines),
	)
}
