package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// event is a line of `go test -json` (see `go doc test2json`).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// patterns are the packages to test, for `go test`.
func patterns(o options) []string {
	if o.pkg == "" {
		return []string{"./tests/..."}
	}
	return []string{path(o.pkg)}
}

// path is the folder of a package by its short name.
func path(pkg string) string {
	if pkg == root {
		return "./tests"
	}
	return "./tests/" + pkg
}

// exactly matches these top-level tests and no others.
func exactly(tests []string) string {
	return "^(" + strings.Join(tests, "|") + ")$"
}

// test runs packages and collects the results; what a package prints goes to a file of its own.
func test(o options, source, here string, packages []string, pattern string) (*results, error) {
	data := filepath.Join(o.work, "data")
	if err := os.RemoveAll(data); err != nil {
		return nil, err
	}
	logs := filepath.Join(o.work, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	arguments := []string{"test", "-json", "-count=1", fmt.Sprint("-timeout=", o.timeout), fmt.Sprint("-p=", o.packages)}
	if pattern != "" {
		arguments = append(arguments, "-run="+pattern)
	}
	command := exec.Command("go", append(arguments, packages...)...)
	command.Dir = source
	command.Stderr = os.Stderr
	command.Env = append(os.Environ(),
		"COMPLEMENT_BASE_IMAGE=unused", "DOCKER_HOST=unix:///nonexistent",
		"COMPLEMENT_HOSTNAME_RUNNING_COMPLEMENT=localhost",
		"COMPLEMENT_PROC_CMD="+filepath.Join(here, "launch.sh"),
		"COMPLEMENT_PROC_DIR="+data,
		"RESUNI_BINARY="+o.binary)
	if o.keep {
		command.Env = append(command.Env, "COMPLEMENT_PROC_KEEP=1")
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("go can't be run: %w", err)
	}
	results := newResults()
	err = collect(bufio.NewReaderSize(stdout, 1<<20), results, logs)
	if err == nil {
		err = os.WriteFile(filepath.Join(logs, "failing.txt"), []byte(results.reasons()), 0o644)
	}
	exit := new(exec.ExitError)
	if waited := command.Wait(); err == nil && waited != nil && !errors.As(waited, &exit) {
		err = waited
	}
	if err == nil && len(results.of) == 0 {
		err = fmt.Errorf("no test ran; see %s", logs)
	}
	return results, err
}

func collect(lines *bufio.Reader, results *results, logs string) error {
	files := map[string]*os.File{}
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	began := time.Now()
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			return nil
		}
		var e event
		if json.Unmarshal(line, &e) != nil || e.Package == "" {
			fmt.Print(string(line)) // of the compiler
			continue
		}
		pkg := short(e.Package)
		switch {
		case e.Action == "output":
			results.note(pkg, e.Test, e.Output)
			if err := write(files, logs, pkg, e.Output); err != nil {
				return err
			}
		case e.Test != "":
			results.add(pkg, e.Test, e.Action)
		case e.Action == pass || e.Action == fail || e.Action == skip:
			passed, ran := results.count(pkg)
			fmt.Printf("%4.0fs  %-8s %3d of %3d leaves pass\n", time.Since(began).Seconds(), pkg, passed, ran)
		}
	}
}

func write(files map[string]*os.File, logs, pkg, text string) error {
	if files[pkg] == nil {
		name := pkg
		if pkg == root {
			name = "fed"
		}
		file, err := os.Create(filepath.Join(logs, name+".log"))
		if err != nil {
			return err
		}
		files[pkg] = file
	}
	_, err := files[pkg].WriteString(text)
	return err
}
