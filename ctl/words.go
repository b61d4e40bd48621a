package ctl

import (
	"fmt"
	"strings"
	"time"
)

// Columns that these take at most.
const (
	sizeWidth = 6
	ageWidth  = 4
)

// size writes a number of bytes in the units of the daemon's options.
func size(bytes float64) string {
	if bytes < 999.5 {
		return fmt.Sprintf("%.0fB", bytes)
	}
	units := []string{"KiB", "MiB", "GiB", "TiB"}
	for {
		bytes /= 1024
		switch {
		case bytes < 9.95:
			return fmt.Sprintf("%.1f%s", bytes, units[0])
		case bytes < 999.5 || len(units) == 1:
			return fmt.Sprintf("%.0f%s", bytes, units[0])
		}
		units = units[1:]
	}
}

// age writes how old something is in a unit that leaves it two digits.
func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	const day = 24 * time.Hour
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%d.%ds", d/time.Second, d%time.Second/(time.Second/10))
	case d < 100*time.Second:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 100*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// words writes a word of the interface for people.
func words(s string) string { return strings.ReplaceAll(s, "_", " ") }

// right pads s on the left to width columns.
func right(width int, s string) string { return fmt.Sprintf("%*s", width, s) }

// rightSize and rightAge set what they write in columns.
func rightSize[N int | int64 | uint64 | float64](bytes N) string {
	return right(sizeWidth, size(float64(bytes)))
}
func rightAge(seconds float64) string { return right(ageWidth, age(seconds)) }
