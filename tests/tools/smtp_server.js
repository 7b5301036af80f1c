// Nodemailer's SMTP server, for test_smtp_server.py: `node smtp_server.js CERTIFICATE_AND_KEY.pem`. It prints its port,
// then a line of JSON for each login and each mail. A mail to gone@… is refused at RCPT; the token is "fresh".
const { readFileSync } = require("fs");
const { SMTPServer } = require("smtp-server");

const pem = readFileSync(process.argv[2]);
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const server = new SMTPServer({
  key: pem,
  cert: pem,
  authMethods: ["PLAIN", "LOGIN", "XOAUTH2"],
  size: 50000000,
  onAuth(auth, session, done) {
    const good = auth.method === "XOAUTH2" ? auth.accessToken === "fresh" : auth.password === "open sesame 16";
    say({ login: auth.method, secure: session.secure, good });
    if (good) return done(null, { user: auth.username });
    const refusal = new Error("Username and Password not accepted");
    refusal.responseCode = 535;
    return done(auth.method === "XOAUTH2" ? null : refusal, { data: { status: "400", schemes: "Bearer" } });
  },
  onRcptTo(address, session, done) {
    const refusal = new Error("5.1.1 no such user");
    refusal.responseCode = 550;
    done(address.address.startsWith("gone@") ? refusal : null);
  },
  onData(stream, session, done) {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => {
      const { mailFrom, rcptTo } = session.envelope;
      say({
        session: session.id,
        sender: mailFrom.address,
        recipients: rcptTo.map((to) => to.address),
        content: Buffer.concat(chunks).toString("base64"),
      });
      done(null, "2.0.0 OK queued");
    });
  },
});
server.on("error", () => {}); // a connection that breaks
server.listen(0, "127.0.0.1", () => say({ port: server.server.address().port }));
