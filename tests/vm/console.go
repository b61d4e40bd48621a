package vm

import (
	"strings"
	"sync"
	"time"
)

// console collects a process's output and lets one wait for a text in it. It is
// safe for concurrent use.
type console struct {
	mu      sync.Mutex // guards what follows
	data    strings.Builder
	changed chan struct{} // closed and replaced at each change
	closed  bool
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data.Write(p)
	c.wake()
	return len(p), nil
}

func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.wake()
}

func (c *console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.String()
}

// await waits until text occurs n times and returns the line of the last one.
func (c *console) await(text string, n int, limit time.Duration) (line string, ok bool) {
	timeout := time.After(limit)
	for {
		c.mu.Lock()
		all, changed, closed := c.data.String(), c.changed, c.closed
		c.mu.Unlock()
		if line, ok := nth(all, text, n); ok || closed {
			return line, ok
		}
		select {
		case <-changed:
		case <-timeout:
			return "", false
		}
	}
}

// nth returns the whole line in which text occurs for the n-th time.
func nth(all, text string, n int) (string, bool) {
	parts := strings.SplitN(all, text, n+1)
	if len(parts) <= n {
		return "", false
	}
	rest, _, whole := strings.Cut(parts[n], "\n")
	return text + strings.TrimRight(rest, "\r"), whole
}
