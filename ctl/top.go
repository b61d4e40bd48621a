package ctl

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// second is how often the view is drawn anew.
const second = time.Second

// top shows what the VMs do: on a terminal until the user leaves, else once.
func top(c *call) error {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	if out, ok := c.stdout.(*os.File); ok && term.IsTerminal(int(out.Fd())) {
		return c.watch(ctx, out, leave)
	}
	before, err := takePicture(ctx, c.client)
	if err != nil {
		return err
	}
	time.Sleep(second)
	p, err := takePicture(ctx, c.client)
	if err != nil {
		return err
	}
	return show(c.stdout, strings.Join(p.view(p.ratesSince(before)), "\n")+"\n")
}

// watch draws the view on the terminal out until the user leaves or the daemon is gone.
func (c *call) watch(ctx context.Context, out *os.File, leave func()) (err error) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	s, err := openScreen(out, leave)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	tick := time.NewTicker(second)
	defer tick.Stop()
	for before := (*picture)(nil); ; {
		p, err := takePicture(ctx, c.client)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.show(ctx, p.view(p.ratesSince(before)), tick.C); err != nil || ctx.Err() != nil {
			return err
		}
		before = p
	}
}
