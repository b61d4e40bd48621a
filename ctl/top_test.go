package ctl

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	xterm "golang.org/x/term"
)

// However top ends, the terminal is as it was.
func TestTopGivesTheTerminalBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		foreign bool
		leave   func(d *testDaemon, term *terminal, p *topProcess) error
		code    int
	}{
		{"q", false, func(_ *testDaemon, term *terminal, _ *topProcess) error {
			_, err := term.user.WriteString("xq")
			return err
		}, exitOK},
		{"Ctrl-C", false, func(_ *testDaemon, term *terminal, _ *topProcess) error {
			_, err := term.user.WriteString("\x03")
			return err
		}, exitOK},
		{"SIGTERM", false, func(_ *testDaemon, _ *terminal, p *topProcess) error { return p.Process.Signal(unix.SIGTERM) }, exitOK},
		{"SIGTERM, not its own terminal", true, func(_ *testDaemon, _ *terminal, p *topProcess) error {
			return p.Process.Signal(unix.SIGTERM)
		}, exitOK},
		{"the daemon goes", false, func(d *testDaemon, _ *terminal, _ *topProcess) error { d.stop(); return nil }, exitError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := startTestDaemon(t, &testDaemon{vms: someVMs, conns: someConnections})
			term := openTerminal(t, 100, 30)
			before := term.mode(t)
			p := startTop(t, d, term, tt.foreign)
			term.awaitFrame(t, func(lines []string) bool { return slices.ContainsFunc(lines, isWeb) })
			if raw := term.mode(t); raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 && !tt.foreign {
				t.Errorf("the terminal is not raw: %+v", raw)
			}
			if !strings.HasPrefix(term.text(), enterScreen) {
				t.Errorf("it began with %.20q", term.text())
			}
			if err := tt.leave(d, term, p); err != nil {
				t.Fatal(err)
			}
			p.expectExit(t, tt.code)
			if after := term.mode(t); after != before {
				t.Errorf("the terminal is left as %+v, it was %+v", after, before)
			}
			waitFor(t, func() bool { return strings.HasSuffix(term.text(), leaveScreen) })
			if failed := p.stderr.Len() > 0; failed != (tt.code != exitOK) {
				t.Errorf("stderr %q", &p.stderr)
			}
		})
	}
}

func isWeb(line string) bool { return strings.HasPrefix(line, "web ") }

// Who wants to leave need not wait for the daemon.
func TestTopLeavesADaemonThatHangs(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{hangs: make(chan struct{})})
	term := openTerminal(t, 100, 30)
	p := startTop(t, d, term, false)
	d.hangs <- struct{}{} // it has been asked
	if _, err := term.user.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	p.expectExit(t, exitOK)
	close(d.hangs)
}

// When its terminal hangs up, top ends.
func TestTopEndsWithItsTerminal(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{})
	term := openTerminal(t, 100, 30)
	p := startTop(t, d, term, false)
	waitFor(t, func() bool { return strings.Contains(term.text(), toTop) })
	term.device.Close()
	term.user.Close()
	p.expectExit(t, exitError) // for the terminal could not be told
}

func TestTopShowsRates(t *testing.T) {
	before, after := twoPictures()
	d := startTestDaemon(t, &testDaemon{vms: before.vms, conns: before.connections, since: time.Now()})
	term := openTerminal(t, 100, 30)
	p := startTop(t, d, term, false)
	web := func(want string) {
		term.awaitFrame(t, func(lines []string) bool {
			i := slices.IndexFunc(lines, isWeb)
			return i > 0 && strings.Fields(lines[i])[4] == want
		})
	}
	web("-")
	web("0B")
	d.set(func() {
		d.vms, d.conns = after.vms, after.connections
		d.vms[0].TxBytes = 1 << 50 // much each second, whatever the time
	})
	term.awaitFrame(t, func(lines []string) bool {
		i := slices.IndexFunc(lines, isWeb)
		return i > 0 && strings.HasSuffix(strings.Fields(lines[i])[4], "TiB")
	})
	term.user.WriteString("q") //nolint:errcheck // then it does not end
	p.expectExit(t, exitOK)
}

// The view is cut to the terminal, and drawn again as soon as that has another size.
func TestTopFitsTheTerminal(t *testing.T) {
	term := openTerminal(t, 12, 3)
	if _, err := xterm.MakeRaw(int(term.device.Fd())); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(context.Background())
	done := make(chan error)
	s := screen{out: term.device}
	go func() {
		done <- s.show(ctx, []string{"世界世界世界世界世界世界世界", "", "twelve colum", "the fourth"}, nil)
	}()
	waitFor(t, func() bool {
		return term.text() == toTop+clearRight+"世界世界世界世界世界世界\r\n"+clearRight+"\r\n"+clearRight+"twelve colum"
	})
	term.resize(t, 5, 6)
	if err := unix.Kill(unix.Getpid(), unix.SIGWINCH); err != nil { // as the kernel does to its own
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		return strings.HasSuffix(term.text(), toTop+clearRight+"世界世界世\r\n"+clearRight+"\r\n"+clearRight+"twelv\r\n"+clearRight+"the f\r\n"+clearBelow)
	})
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Without a terminal there is one picture, of one interval.
func TestTopWithoutATerminal(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{vms: someVMs, conns: someConnections, since: time.Now()})
	code, stdout, stderr := d.ctl("top")
	if code != exitOK || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if strings.Count(stdout, "WAITS FOR") != 1 || !strings.Contains(stdout, "\nweb   running     12  256KiB      0B ") {
		t.Errorf("it shows:\n%s", stdout)
	}
	d.set(func() { d.silent = []string{"db"} })
	if code, stdout, stderr := d.ctl("top"); code != exitOK || stderr != "" || !strings.Contains(stdout, "\nevent loops that do not answer: db\n\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	for line := range strings.Lines(stdout) {
		if line = strings.TrimSuffix(line, "\n"); plain(line) != line || utf8.RuneCountInString(line) > aTerminal {
			t.Errorf("line %q", line)
		}
	}
}
