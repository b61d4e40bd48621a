// Command bench measures the daemon: the real binary as a process of its own, under a
// frontend and a guest's driver that cost next to nothing, with host programs as threads;
// and in the same run, turn by turn, what bare sockets can do, and other backends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// Who takes part, by the names in tables and reports.
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
	only := flag.String("only", "", "measure only these figures, comma-separated: tx/64, or tx for all whose names begin with tx/")
	list := flag.Bool("list", false, "list the figures' names and do nothing else")
	rounds := flag.Int("rounds", 11, "how often each figure is measured")
	seconds := flag.Float64("seconds", 0.2, "for how long in each round")
	program := flag.String("daemon", "", "path of the daemon, and flags for it; built from this tree unless given")
	base := flag.String("base", "", "the same of another build, to compare with")
	peer := flag.String("peer", os.Getenv("PEER"), "command line of another backend, with {sock} and {uds}")
	oneSession := flag.Bool("one-session", false, "run backends in the bench's session, as a shell does; else each has one of its own, as from a service manager")
	output := flag.String("json", "", "write every round to this file")
	plot := flag.String("plot", "", "draw this file, which -json wrote, as SVG on the standard output, and do nothing else")
	flag.Parse()

	all := figures(full)
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("argument %q: everything is a flag", flag.Arg(0))
	case *plot != "":
		r, err := readReport(*plot)
		if err != nil {
			return err
		}
		return r.plot(os.Stdout)
	case *list:
		for _, f := range all {
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
		backends = append(backends, backend{name: peerName, one: *peer})
	}
	for i := range backends {
		backends[i].inSession = *oneSession
	}
	if all = chosen(all, *only); len(all) == 0 {
		return fmt.Errorf("-only %q: no figure has that name; -list tells them", *only)
	}
	p := params{stretch: time.Duration(*seconds * float64(time.Second))}
	r, err := measureAll(all, backends, p, *rounds)
	if *output != "" {
		err = errors.Join(err, r.write(*output))
	}
	return err
}

// measureAll measures figures and prints their table. What can be measured is, even if
// something else cannot.
func measureAll(figures []figure, backends []backend, p params, rounds int) (*report, error) {
	quiet()
	t, r := newTable(os.Stdout, backends), newReport()
	var failed error
	for i, f := range figures {
		fmt.Fprintf(os.Stderr, "%d of %d: %s\n", i+1, len(figures), f.name)
		s, err := f.measure(os.Stderr, backends, p, rounds)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", f.name, err))
			continue
		}
		t.add(&f, s)
		r.add(&f, s)
		debug.FreeOSMemory()
	}
	t.flush()
	return r, failed
}

// quiet keeps the bench's own runtime out of the way: each thread has a processor of the
// scheduler's to itself, and garbage waits until a figure is done.
func quiet() {
	runtime.GOMAXPROCS(64)
	debug.SetGCPercent(-1)
}

// chosen returns the figures that were named, wholly or by the beginning of their names up
// to a slash; all, if nothing was.
func chosen(all []figure, only string) (some []figure) {
	for _, f := range all {
		for name := range strings.SplitSeq(only, ",") {
			if only == "" || f.name == name || strings.HasPrefix(f.name, name+"/") {
				some = append(some, f)
				break
			}
		}
	}
	return some
}
