rootProject.name = "dst-edge"
