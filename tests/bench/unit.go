package main

import (
	"fmt"
	"time"
)

// unit says how values are printed.
type unit int

const (
	bytesPerSecond unit = iota
	secondsPerGiB
	seconds
	perSecond
	bytesHeld
	plain
)

func (u unit) format(v float64) string {
	switch u {
	case bytesPerSecond:
		if v >= gib {
			return fmt.Sprintf("%.2f GiB/s", v/gib)
		}
		return fmt.Sprintf("%.1f MiB/s", v/mib)
	case secondsPerGiB:
		return fmt.Sprintf("%.3g s/GiB", v)
	case seconds:
		return fmt.Sprint(time.Duration(v * float64(time.Second)).Round(100 * time.Nanosecond))
	case perSecond:
		return fmt.Sprintf("%.0f /s", v)
	case bytesHeld:
		if v >= mib {
			return fmt.Sprintf("%.1f MiB", v/mib)
		}
		return fmt.Sprintf("%.0f B", v)
	}
	return fmt.Sprintf("%.3g", v)
}
