// Command demo shows the daemon at work: it boots a guest on it, has host and guest talk
// both ways, asks what a stalled connection waits for and prints some metrics.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	begin := time.Now()
	s := newStage(os.Stdout)
	if err := s.perform(show); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo failed:", err)
		os.Exit(1)
	}
	fmt.Printf("\nDone in %.1f s: the daemon exited with code 0 and left nothing behind.\n", time.Since(begin).Seconds())
}
