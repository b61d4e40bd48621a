// Command bench measures the daemon: the real binary as a process of its own, under a
// frontend and a guest's driver that cost next to nothing, with host programs as threads;
// and in the same run, turn by turn, what bare sockets can do, and other backends.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// Names of the backends in the tables.
const (
	oursName = "ours"
	bareName = "bare"
	baseName = "base"
	peerName = "peer"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "measure only figures whose names begin with one of these, comma-separated")
	list := flag.Bool("list", false, "list the figures' names")
	rounds := flag.Int("rounds", 5, "how often each figure is measured")
	seconds := flag.Float64("seconds", 0.5, "for how long in each round")
	program := flag.String("daemon", "", "path of the daemon, and flags for it; built from this tree unless given")
	base := flag.String("base", "", "path of another build of the daemon, to compare with")
	peer := flag.String("peer", os.Getenv("PEER"), "command line of another backend, with {sock} and {uds}")
	flag.Parse()
	if *list {
		for _, f := range figures() {
			fmt.Println(f.name)
		}
		return nil
	}
	if *program == "" {
		var err error
		if *program, err = vm.DaemonProgram(); err != nil {
			return err
		}
	}
	backends := []backend{daemon(oursName, *program)}
	if *base != "" {
		backends = append(backends, daemon(baseName, *base))
	}
	if *peer != "" {
		backends = append(backends, backend{name: peerName, command: *peer})
	}
	p := params{stretch: time.Duration(*seconds * float64(time.Second))}

	quiet()
	t := newTable(os.Stdout, backends)
	for _, f := range figures() {
		if !chosen(f.name, *only) {
			continue
		}
		s, err := f.measure(os.Stderr, backends, p, *rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		t.add(&f, s)
	}
	t.flush()
	return nil
}

// quiet keeps the bench's own runtime out of the way: each thread has a processor of the
// scheduler's to itself, and garbage waits until the end.
func quiet() {
	runtime.GOMAXPROCS(64)
	debug.SetGCPercent(-1)
}

// chosen reports whether a figure is one of those that were asked for.
func chosen(name, only string) bool {
	for prefix := range strings.SplitSeq(only, ",") {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
