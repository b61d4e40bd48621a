//go:build race

package guestmem

import (
	"runtime"
	"unsafe"
)

// raceWord stands for all of guest memory. The race detector does not look at
// mappings, so a driver in the same process, as tests have it, would seem to
// share its own data with us unordered.
var raceWord byte

func raceAcquire() {
	// SAFETY: only the address of the word is used.
	runtime.RaceAcquire(unsafe.Pointer(&raceWord))
}

func raceRelease() {
	// SAFETY: only the address of the word is used.
	runtime.RaceReleaseMerge(unsafe.Pointer(&raceWord))
}
