"""The MedScribeAlliance protocol v0.1, spoken by us as a server: login, discovery, sessions, audio."""
