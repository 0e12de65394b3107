"use strict";

// The stage is done: tell the client that opened this page (User-Interactive Authentication, "Fallback").
function done() {
  if (window.onAuthDone) {
    window.onAuthDone();
  } else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
  }
}

// Logs in with the password and hands the answer to the client that opened this page ("Login Fallback").
function login(form) {
  const say = (text) => {
    document.getElementById("error").textContent = text;
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = new URLSearchParams(window.location.search);
    const body = {
      type: "m.login.password",
      identifier: { type: "m.id.user", user: form.elements.user.value },
      password: form.elements.password.value,
    };
    for (const name of ["device_id", "initial_device_display_name"]) {
      if (asked.has(name)) {
        body[name] = asked.get(name);
      }
    }
    try {
      const response = await fetch("/_matrix/client/v3/login", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      const answer = await response.json();
      if (!response.ok) {
        say(answer.error || "Logging in failed.");
      } else if (window.matrixLogin && window.matrixLogin.onLogin) {
        window.matrixLogin.onLogin(answer);
      } else if (window.onLogin) {
        window.onLogin(answer);
      } else {
        say("You are logged in, but no client is waiting for it.");
      }
    } catch (error) {
      say("The server can't be reached.");
    }
  });
}

switch (document.body.dataset.page) {
  case "done":
    done();
    break;
  case "login":
    login(document.forms[0]);
    break;
}
