package trace

import "os"

// Times and sizes that tests go by.
const (
	RingSize   = ringSize
	CloseLimit = closeLimit
)

// NewRecorder returns a Recorder for a file of any kind.
func NewRecorder(cfg Config, f *os.File) *Recorder { return newRecorder(cfg, f) }
