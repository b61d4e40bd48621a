// Command manual writes the manual page and the shells' completions from the
// program's table of options:
//
//	manual VERSION DIR
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manual VERSION DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

// write writes the files into dir.
func write(version, dir string) error {
	groups := config.FlagGroups()
	for name, text := range map[string]string{
		config.Program + ".8":    manPage(version, groups),
		config.Program + ".bash": bashCompletion(groups),
		config.Program + ".zsh":  zshCompletion(groups),
		config.Program + ".fish": fishCompletion(groups),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
