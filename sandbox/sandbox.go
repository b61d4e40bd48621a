package sandbox

import (
	"cmp"
	"fmt"
)

// Mode says how much of the sandbox there must be.
type Mode int

const (
	On      Mode = iota // as much as the kernel has
	Off                 // capabilities and new privileges are given up, nothing else
	Require             // all, or an error
)

// Paths are the directories that stay in use. They must exist.
type Paths struct {
	Sockets []string // sockets are made, renamed and removed in them
	Files   []string // files in and below them are read
	Written []string // files are made, renamed and written in them
}

// State is what is in force.
type State struct {
	Capabilities string // those left, as cap_to_text(3) writes them
	Landlock     bool   // at least for files
	Seccomp      bool
	Missing      error // what the kernel lacks for the rest; nil: nothing is missing
}

// Enter confines the process, threads that run already included. What it gives
// up does not come back, also not after an error.
//
// Everything else must have happened before: listening on TCP, lookups of
// users and host names, and the first reading of files that a library reads
// once, such as that of the time zone.
func Enter(mode Mode, paths Paths) (s State, err error) {
	if s.Capabilities, err = dropCapabilities(); err != nil {
		return s, fmt.Errorf("give up capabilities: %w", err)
	}
	if mode == Off {
		return s, nil
	}
	var files, calls error // what they miss
	if s.Landlock, files, err = restrictFiles(paths); err != nil {
		return s, fmt.Errorf("landlock: %w", err)
	}
	calls = restrictCalls() // last, for it forbids the others
	s.Seccomp = calls == nil
	s.Missing = missing(files, calls)
	if mode == Require {
		return s, s.Missing
	}
	return s, nil
}

// missing names what is not whole, in one line.
func missing(files, calls error) error {
	if files != nil {
		files = fmt.Errorf("landlock: %w", files)
	}
	if calls != nil {
		calls = fmt.Errorf("seccomp: %w", calls)
	}
	if files != nil && calls != nil {
		return fmt.Errorf("%w; %w", files, calls)
	}
	return cmp.Or(files, calls)
}
