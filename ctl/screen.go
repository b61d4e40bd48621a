package ctl

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Control sequences as in console_codes(4) and xterm.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// leaveKeys leave the view: q, and Ctrl-C, which is no signal on a raw terminal.
const leaveKeys = "qQ\x03"

// screen is a terminal that a view has for itself.
type screen struct {
	out    *os.File
	keys   *os.File      // the controlling terminal; nil: there is none
	before *term.State   // of keys
	done   chan struct{} // closed when no key is read any more
}

// openScreen takes the terminal until close. It calls leave, from another goroutine,
// when the user wants to leave.
func openScreen(out *os.File, leave func()) (*screen, error) {
	s := &screen{out: out}
	// A file of its own, not stdin, for to close that would not end a read. Fd leaves it
	// non-blocking, as it is from the start.
	if keys, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		if s.before, err = term.MakeRaw(int(keys.Fd())); err != nil {
			return nil, errors.Join(os.NewSyscallError("ioctl", err), keys.Close())
		}
		s.keys, s.done = keys, make(chan struct{})
		go s.readKeys(leave)
	}
	_, err := out.WriteString(enterScreen)
	if err != nil {
		err = errors.Join(err, s.close())
	}
	return s, err
}

// readKeys calls leave at the first of leaveKeys, and when the terminal has gone.
func (s *screen) readKeys(leave func()) {
	defer close(s.done)
	defer leave()
	typed := make([]byte, 64)
	for {
		n, err := s.keys.Read(typed)
		if err != nil || bytes.ContainsAny(typed[:n], leaveKeys) {
			return
		}
	}
}

// close gives the terminal back as it was.
func (s *screen) close() error {
	_, err := s.out.WriteString(leaveScreen)
	if s.keys == nil {
		return err
	}
	restored := term.Restore(int(s.keys.Fd()), s.before)
	closed := s.keys.Close()
	<-s.done
	return errors.Join(err, restored, closed)
}

// show has the lines on the screen, whatever size that takes, until the time comes for
// others or ctx ends.
func (s *screen) show(ctx context.Context, lines []string, others <-chan time.Time) error {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	for {
		if err := s.draw(lines); err != nil {
			return err
		}
		select {
		case <-resized:
		case <-others:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// draw writes as much of the lines as there is room for. They hold no control
// characters.
func (s *screen) draw(lines []string) error {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil {
		return os.NewSyscallError("ioctl", err)
	}
	lines = lines[:min(height, len(lines))]
	var b strings.Builder
	b.WriteString(toTop)
	for i, line := range lines {
		// Cleared first: behind a full line, the cursor would still stand on its end.
		b.WriteString(clearRight + firstColumns(line, width))
		if i+1 < height {
			b.WriteString("\r\n")
		}
	}
	if len(lines) < height {
		b.WriteString(clearBelow)
	}
	_, err = s.out.WriteString(b.String())
	return err
}

// firstColumns cuts a line.
func firstColumns(line string, width int) string {
	for at := range line {
		if width--; width < 0 {
			return line[:at]
		}
	}
	return line
}
