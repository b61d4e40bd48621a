package main

import (
	"slices"
	"time"
)

// The metrics of times that were taken many times over.
const (
	half      metric = "p50_seconds"
	most      metric = "p99_seconds"
	nearlyAll metric = "p999_seconds"
	spread    metric = "p99_over_p50"
)

// percentiles returns them of times, which it sorts.
func percentiles(times []time.Duration) round {
	slices.Sort(times)
	at := func(share float64) float64 {
		return times[min(int(share*float64(len(times))), len(times)-1)].Seconds()
	}
	return round{half: at(0.5), most: at(0.99), nearlyAll: at(0.999), spread: at(0.99) / at(0.5)}
}
