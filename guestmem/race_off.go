//go:build !race

package guestmem

func raceAcquire() {}

func raceRelease() {}
