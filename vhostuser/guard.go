package vhostuser

import (
	"fmt"
	"runtime"
)

// MemoryFault ends a session whose frontend took pages of the guest's memory, or
// of the dirty log, away while they were in use, by shrinking the file behind them.
type MemoryFault struct {
	Addr uintptr // ours
	Err  error   // the runtime's
}

func (f *MemoryFault) Error() string {
	return fmt.Sprintf("guest memory is gone at 0x%x: %v", f.Addr, f.Err)
}

func (f *MemoryFault) Unwrap() error { return f.Err }

// guard calls f and turns a fault in what the session has mapped into an error;
// the loop runs with debug.SetPanicOnFault. Every other panic is a bug of ours
// and goes on.
func (s *Server) guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.memoryFault(v)
		}
	}()
	return f()
}

// memoryFault converts what a panic brought, or panics again.
func (s *Server) memoryFault(v any) error {
	fault, ok := v.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok || s.session == nil || !s.session.holds(fault.Addr()) {
		panic(v)
	}
	return &MemoryFault{Addr: fault.Addr(), Err: fault}
}

// holds reports whether the session has something mapped at addr.
func (s *session) holds(addr uintptr) bool {
	return s.memory.Holds(addr) || s.dirty != nil && s.dirty.Holds(addr)
}

// run calls into the device or the session. An error ends the session.
func (s *Server) run(f func() error) {
	if err := s.guard(f); err != nil {
		s.end(err)
	}
}
